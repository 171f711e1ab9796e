"""A real Orthanc on free ports, with a folder of its own; it can be killed and started again."""

import json
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import httpx
from pydicom.dataset import Dataset

from cdtl_core.system.processes import free_port
from tests.pacs.studies import encoded

PROGRAM, PLUGIN = Path("/usr/sbin/Orthanc"), Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
TITLE, OWN_TITLE = "ORTHANC", "CDTL"
AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'


class Orthanc:
    """The program and its ports; `receive_port` is where it sends images after a C-MOVE."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._process = folder, None
        self.web_port, self.port, self.receive_port = free_port(), free_port(), free_port()
        store = str(folder / "store")
        (folder / "store").mkdir(parents=True)
        settings = {
            "StorageDirectory": store, "IndexDirectory": store, "HttpPort": self.web_port, "DicomPort": self.port,
            "DicomAet": TITLE, "DicomCheckCalledAet": True, "DicomAlwaysAllowFind": True, "DicomAlwaysAllowGet": True,
            "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            "DicomModalities": {"cdtl": [OWN_TITLE, "127.0.0.1", self.receive_port]},
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(settings), encoding="utf-8")

    @property
    def web(self) -> str:
        return f"http://127.0.0.1:{self.web_port}/dicom-web"

    def start(self) -> None:
        with open(self._folder / "orthanc.log", "ab") as log:
            self._process = subprocess.Popen(
                [str(PROGRAM), str(self._folder / "orthanc.json")], stdout=log, stderr=subprocess.STDOUT
            )
        end = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{self.web_port}/system", trust_env=False).raise_for_status()
            except httpx.HTTPError:
                assert time.monotonic() < end, (self._folder / "orthanc.log").read_text(encoding="utf-8")[-2000:]
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def upload(self, images: Iterable[Dataset]) -> int:
        """Store images; return their bytes."""
        size = 0
        with httpx.Client(trust_env=False, timeout=60) as client:
            for one in images:
                content = encoded(one)
                client.post(f"http://127.0.0.1:{self.web_port}/instances", content=content).raise_for_status()
                size += len(content)
        return size

    def settings(self, path: Path, protocol: str, *, web_port: int = 0, port: int = 0) -> Path:
        """Write pacs.toml.

        Args:
            path: The file; its folder has the key.
            protocol: dicomweb, c-get or c-move.
            web_port: Another port for DICOMweb, of a line that can be cut.
            port: Another port for DIMSE.
        """
        path.write_text(
            f'protocol = "{protocol}"\npatience_s = 60\ntimeout_s = 10\n'
            f'[dicomweb]\nurl = "http://127.0.0.1:{web_port or self.web_port}/dicom-web"\n'
            f'[dimse]\nhost = "127.0.0.1"\nport = {port or self.port}\nae_title = "{TITLE}"\n'
            f"receive_port = {self.receive_port}\n",
            encoding="utf-8",
        )
        return path
