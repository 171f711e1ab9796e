"""torch for a CPU: its lock file, and libraries without their GPU code."""

import ctypes
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from cdtl_core.system.shipped import bundle_root

ROOT = bundle_root()
needs_gcc = pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("readelf")), reason="needs gcc and binutils")


def cpu_torch() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cpu_torch", ROOT / "docker" / "cpu_torch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_cpus_lock_leaves_out_nvidia_and_nothing_else() -> None:
    text = (ROOT / "requirements.lock").read_text()
    names = {line.split("==")[0] for line in text.splitlines() if line[0] != " "}
    kept = {line.split("==")[0] for line in cpu_torch().cpu_lock(text).splitlines() if line[0] != " "}
    assert {"torch", "torchvision", "flwr", "nvidia-cuda-runtime"} <= kept
    assert {name for name in names - kept if not name.startswith(("nvidia-", "cuda-"))} == {"triton"}
    assert len(names - kept) > 12
    assert cpu_torch().cpu_lock("a==1 \\\n    --hash=x\ntriton==2 \\\n    --hash=y\n") == "a==1 \\\n    --hash=x\n"


CODE = """
extern int nothereCall(int), nothereOther(void);
const char kernels[200000] __attribute__((section(".nv_fatbin"))) = {1, 2, 3};
const char after[] = "after the kernels";
int twice(int x) { return 2 * x; }
const char *last(void) { return after; }
int ask(int x) { return nothereCall(x) + nothereOther(); }
int kernel(int i) { return kernels[i]; }
"""


def library(folder: Path) -> Path:
    """A library with GPU code that needs another one, which is then removed."""
    (folder / "absent.c").write_text("int nothereCall(int x) { return x; }\nint nothereOther(void) { return 1; }\n")
    (folder / "code.c").write_text(CODE)
    (folder / "versions").write_text("libnothere.so.3 { global: nothereCall; };")
    absent, made = folder / "libnothere.so.3", folder / "libcode.so"
    flags = ["gcc", "-shared", "-fPIC", "-Wl,--build-id=sha1", f"-Wl,-rpath,{folder}"]
    subprocess.run(
        [
            *flags,
            "-Wl,-soname,libnothere.so.3",
            f"-Wl,--version-script={folder}/versions",
            "-o",
            absent,
            folder / "absent.c",
        ],
        check=True,
    )
    subprocess.run([*flags, "-o", made, folder / "code.c", absent], check=True)
    absent.unlink()
    return made


@needs_gcc
def test_a_library_works_without_its_gpu_code_and_refuses_what_it_calls_of_nvidia(tmp_path: Path) -> None:
    module, path = cpu_torch(), library(tmp_path)
    wanted = module.wanted([path], {"libc.so.6"})
    assert wanted == {"libnothere.so.3": {"nothereCall": "libnothere.so.3", "nothereOther": ""}}
    module.stand_in(tmp_path / "libnothere.so.3", wanted["libnothere.so.3"])
    assert module.cut(path) > 190_000
    assert module.cut(tmp_path / "libnothere.so.3") == 0
    code = ctypes.CDLL(str(path))
    code.last.restype = ctypes.c_char_p
    assert (code.twice(21), code.last(), code.kernel(100_000)) == (42, b"after the kernels", 0)
    call = f"import ctypes; ctypes.CDLL({str(path)!r}).ask(1)"
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True)
    assert done.returncode < 0
    assert "nothereCall of CUDA, but this is the CPU installation" in done.stderr


def test_only_a_torch_built_for_cuda_is_changed(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no torch built for CUDA"):
        cpu_torch().strip(tmp_path)
