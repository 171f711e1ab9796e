"""What all decoders share: here the warnings of image libraries, which stay off the terminal."""

import warnings

import pytest

from cdtl_core.data.decode import raster
from cdtl_core.data.decode.formats import silenced


@pytest.mark.parametrize("module", [raster.__name__, "PIL.TiffImagePlugin", "pydicom.filereader"])
def test_warnings_of_decoders_are_silenced_and_those_of_others_pass(module: str) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with silenced():
            for source in (module, "numpy.core"):
                warnings.warn_explicit("damaged", UserWarning, "file.py", 1, module=source)
        warnings.warn_explicit("after", UserWarning, "file.py", 1, module=module)
    assert [str(one.message) for one in seen] == ["damaged", "after"]
