"""A wrong setting, a wrong address or a hostile peer: a sentence without secrets, and nothing sent elsewhere."""

import re
import sys
from io import BytesIO
from pathlib import Path

import pytest
import requests
from pydantic import BaseModel
from pynetdicom import AE, build_context

from cdtl_core.errors import ConfigError
from cdtl_core.pacs.answers import bounded
from cdtl_core.pacs.faults import PacsError
from cdtl_core.pacs.settings import DicomwebConfig, DimseConfig, PacsConfig, load_pacs
from tests.pacs.conftest import Cdtl, serve, table
from tests.pacs.peers import SmallPacs
from tests.pacs.studies import image, known
from tests.tables import Tries

WEB = 'protocol = "dicomweb"\n[dicomweb]\nurl = "https://pacs.example.org/dicom-web"\n'
MOVE = 'protocol = "c-move"\n[dimse]\nhost = "h"\nport = 1\nae_title = "P"\nreceive_port = 2\n'
SECRET = "Hunter2Hunter2"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (WEB.replace("url", "adress"), "adress"),
        (WEB + 'password = "x"\n', "password_file"),
        (WEB + 'user = "x"\n', "belong together"),
        (WEB.replace("https://", "https://me:pw@"), "must not hold a password"),
        (WEB.replace("https", "http") + 'token_env = "T"\n', "unencrypted"),
        ('window = "8-20"\n' + WEB, "20:00-06:00"),
        ('protocol = "c-get"\n', r"\[dimse\]"),
        ('protocol = "c-move"\n[dimse]\nhost = "h"\nport = 1\nae_title = "P"\n', "receive_port"),
        (MOVE, "cannot reach"),
        ('protocol = "c-get"\n[dimse]\nhost = "h"\nport = 1\nae_title = "A NAME THAT IS TOO LONG"\n', "1 to 16"),
        ('protocol = "c-get"\nstore = true\n[dimse]\nhost = "h"\nport = 1\nae_title = "P"\n', "STOW"),
    ],
)
def test_wrong_settings_are_refused_with_what_to_write(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "pacs.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=told) as refused:
        load_pacs(tmp_path / "pacs.toml")
    assert "pw" not in str(refused.value).replace("password", "")


def test_the_guide_names_every_setting() -> None:
    page = Path("docs/guides/pacs.md").read_text(encoding="utf-8")
    listed = page.partition("## Settings")[2].partition("\n## ")[0]
    tables: dict[str, type[BaseModel]] = {"": PacsConfig, "dicomweb.": DicomwebConfig, "dimse.": DimseConfig}
    names = {f"{table}{name}" for table, kind in tables.items() for name in kind.model_fields} - {"dicomweb", "dimse"}
    assert set(re.findall(r"^\| `([a-z_.]+)`", listed, re.MULTILINE)) == names


@pytest.mark.parametrize(
    ("protocol", "package", "module"),
    [("dicomweb", "dicomweb-client", "dicomweb_client.web"), ("c-get", "pynetdicom", "pynetdicom")],
)
def test_without_the_extra_the_command_says_what_to_install(
    protocol: str,
    package: str,
    module: str,
    pacs: SmallPacs,
    tmp_path: Path,
    cdtl: Cdtl,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for path in serve(protocol, pacs, tmp_path):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, module, None)
            for name in ("dicomweb", "dimse", "receive"):
                patched.delitem(sys.modules, f"cdtl_core.pacs.{name}", raising=False)
            code, told = cdtl("data", "pull", tmp_path / "out", "--pacs", path, "--modality", "US")
        assert (code, f"{package}, which is missing: pip install 'cdtl[pacs]'" in told) == (3, True), told


@pytest.mark.attack("a PACS secret is in no readable file and no message", "an open file, no file, no variable")
def test_a_secret_comes_from_a_private_file_and_is_never_shown(
    web: Path, pacs: SmallPacs, tmp_path: Path, cdtl: Cdtl, tries: Tries, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, command = tmp_path / "secret", ("data", "pull", tmp_path / "out", "--pacs", web, "--modality", "US")
    plain = web.read_text(encoding="utf-8")

    def told(settings: str, code: int, sentence: str) -> None:
        tries.add()
        web.write_text(plain.replace("[dimse]", f"{settings}\n[dimse]"), encoding="utf-8")
        ended, said = cdtl(*command)
        assert (ended, sentence in said, SECRET in said) == (code, True, False), said

    secret.write_text(f"{SECRET}\n", encoding="utf-8")
    secret.chmod(0o640)
    told('user = "u"\npassword_file = "secret"', 3, f"chmod 600 {secret}")
    secret.chmod(0o600)
    pacs.status = 401
    told('user = "u"\npassword_file = "secret"', 4, "does not accept the credentials (401)")
    monkeypatch.setenv("TOKEN", SECRET)
    told('token_env = "TOKEN"', 4, "does not accept the credentials (401)")
    told('token_env = "NOT_SET"', 3, "NOT_SET is not set")
    told('token_file = "nowhere"', 3, "cannot be read")
    assert SECRET.encode() not in b"".join(
        path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()
    )


@pytest.mark.attack("identifiers go to the PACS and nowhere else", "a proxy of the environment, a redirect")
def test_no_proxy_and_no_redirect_is_followed(
    web: Path, pacs: SmallPacs, tmp_path: Path, cdtl: Cdtl, tries: Tries, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = SmallPacs([])
    with other.web() as proxy:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        command = ("data", "pull", tmp_path / "out", "--pacs", web, "--accessions", table(tmp_path, [0]))
        assert cdtl(*command)[0] == 0
        pacs.status = 302
        code, told = cdtl(*command)
        assert (code, "redirects to another address" in told) == (4, True), told
        assert other.asked == []
    tries.add(2)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('ae_title = "PACS"', 'ae_title = "OTHER"', "has another AE title than dimse.ae_title"),
        (r"\[dimse\]", '[dimse]\nown_ae_title = "STRANGER"', "does not know the AE title of this site"),
        ("tls = false", "tls = true", "closed the connection: is TLS asked for on this port"),
        (r"port = \d+\nae", "port = 9\nae", "cannot be reached: check host, port and firewall"),
    ],
)
def test_a_wrong_dimse_setting_is_told(
    old: str, new: str, told: str, pacs: SmallPacs, tmp_path: Path, cdtl: Cdtl
) -> None:
    for path in serve("c-get", pacs, tmp_path):
        path.write_text(re.sub(old, new, path.read_text(encoding="utf-8")), encoding="utf-8")
        code, said = cdtl("data", "pull", tmp_path / "out", "--pacs", path, "--modality", "US")
        assert (code, told in said) == (4, True), said


def test_the_key_is_not_kept_with_the_images(web: Path, tmp_path: Path, cdtl: Cdtl) -> None:
    code, said = cdtl("data", "pull", tmp_path, "--pacs", web, "--modality", "US")
    assert (code, "would be among the images" in said) == (3, True), said


@pytest.mark.parametrize(
    ("status", "told"), [(403, "does not allow this account"), (404, "check dicomweb.url"), (500, "a fault of its own")]
)
def test_a_refusing_web_service_is_told(
    status: int, told: str, web: Path, pacs: SmallPacs, tmp_path: Path, cdtl: Cdtl
) -> None:
    pacs.status = status
    code, said = cdtl("data", "pull", tmp_path / "out", "--pacs", web, "--modality", "US")
    assert (code, told in said) == (4, True), said


def test_a_tls_address_that_speaks_none_is_told(web: Path, tmp_path: Path, cdtl: Cdtl) -> None:
    web.write_text(web.read_text(encoding="utf-8").replace("http:", "https:"), encoding="utf-8")
    code, said = cdtl("data", "pull", tmp_path / "out", "--pacs", web, "--modality", "US")
    assert (code, "does not speak TLS" in said) == (4, True), said


@pytest.mark.parametrize(
    ("row", "told"),
    [("ACC*,x", "with which a PACS would return other studies"), (",x", "is empty"), ("A,x\nA,y", "another label")],
)
def test_a_malformed_table_is_refused(row: str, told: str, web: Path, tmp_path: Path, cdtl: Cdtl) -> None:
    (tmp_path / "t.csv").write_text(f"accession_number,label\n{row}\n", encoding="utf-8")
    code, said = cdtl("data", "pull", tmp_path / "out", "--pacs", web, "--accessions", tmp_path / "t.csv")
    assert (code, told in said) == (4, True), said


def test_a_full_disk_ends_the_pull_with_a_sentence_and_the_next_one_continues(
    web: Path, tmp_path: Path, cdtl: Cdtl, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("data", "pull", tmp_path / "out", "--pacs", web, "--accessions", table(tmp_path, range(3)))
    write, count = Path.write_bytes, iter(range(100))

    def full(path: Path, content: bytes) -> int:
        if path.suffix == ".dcm" and next(count) == 6:
            raise OSError(28, "No space left on device")
        return write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        code, said = cdtl(*command)
    assert (code, "No space left on device" in said) == (6, True), said
    code, said = cdtl(*command)
    assert (code, "12 rows" in said) == (0, True), said


@pytest.mark.attack("the port for C-MOVE takes only what was asked for", "a strange AE title, another study")
def test_the_receiving_port_takes_nothing_else(tmp_path: Path, tries: Tries) -> None:
    from cdtl_core.pacs.receive import Receiver
    from cdtl_core.system.processes import free_port

    port, one, got = free_port(), image(0, 0, 0), []
    own = DimseConfig(host="127.0.0.1", port=1, ae_title="PACS", receive_port=port)
    receiver = Receiver(own)
    try:
        with receiver.expecting("1.2.3", got.append):
            for title in ("STRANGER", "PACS"):
                tries.add()
                peer = AE(ae_title=title)
                line = peer.associate("127.0.0.1", port, [build_context(one.SOPClassUID)], ae_title="CDTL")
                assert line.is_established is (title == "PACS")
                if line.is_established:
                    assert line.send_c_store(one).Status == 0x0124
                    line.release()
        assert got == []
    finally:
        receiver.close()


def test_half_a_study_is_no_study_even_if_the_pacs_tells_no_numbers(
    web: Path, pacs: SmallPacs, tmp_path: Path, cdtl: Cdtl
) -> None:
    """The connection ends between two images as it would after the last one."""
    pacs.tells_counts = pacs.tells_length = False
    pacs.break_after = 1
    code, told = cdtl("data", "pull", tmp_path / "out", "--pacs", web, "--accessions", table(tmp_path, [0]))
    assert (code, "4 rows" in told, pacs.break_after) == (0, True, 0), told


def test_an_image_that_comes_twice_does_not_stand_for_one_that_is_missing(
    settings: Path, pacs: SmallPacs, tmp_path: Path, cdtl: Cdtl
) -> None:
    settings.write_text(settings.read_text(encoding="utf-8").replace("patience_s = 5", "patience_s = 0"))
    pacs.images[1] = pacs.images[0]
    code, told = cdtl("data", "pull", tmp_path / "out", "--pacs", settings, "--accessions", table(tmp_path, [0]))
    assert (code, "only 3 of 4 images arrived" in told) == (4, True), told


@pytest.mark.attack("a hostile PACS fills no memory and no disk by one answer", "gzip, a list and an image without end")
def test_an_answer_without_bounds_is_refused(
    web: Path, pacs: SmallPacs, tmp_path: Path, cdtl: Cdtl, monkeypatch: pytest.MonkeyPatch, tries: Tries
) -> None:
    command = ("data", "pull", tmp_path / "out", "--pacs", web, "--accessions", table(tmp_path, [0]))
    for name, most, sentence in (
        ("answers.LARGEST_LIST", 100, "a list of more than"),
        ("dicomweb._MOST_STUDIES", 0, "lists more than 0 studies"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(f"cdtl_core.pacs.{name}", most)
            code, told = cdtl(*command)
        assert (code, sentence in told) == (4, True), told
        tries.add()
    monkeypatch.setattr("cdtl_core.pacs.answers.LARGEST_IMAGE", 1000)
    kind = "multipart/related; boundary=b"
    for fields, body, sentence in (
        ({"Content-Encoding": "gzip"}, b"", "compresses its answers"),
        ({"Content-Type": kind}, b"--b\r\n" + b"x" * 5000, "an image of more than"),
    ):
        answer = requests.Response()
        answer.status_code, answer.raw = 200, BytesIO(body)
        answer.headers.update(fields)
        with pytest.raises(PacsError, match=sentence):
            list(bounded(answer) or answer.iter_content(64))
        tries.add()


def test_a_table_without_column_names_is_refused_without_its_numbers(web: Path, tmp_path: Path, cdtl: Cdtl) -> None:
    (tmp_path / "t.csv").write_text(f"{known(0).accession},benign\n{known(1).accession},malignant\n", encoding="utf-8")
    code, said = cdtl("data", "pull", tmp_path / "out", "--pacs", web, "--accessions", tmp_path / "t.csv")
    assert (code, "its first line must hold the names" in said, "ACC0" in said) == (4, True, False), said
