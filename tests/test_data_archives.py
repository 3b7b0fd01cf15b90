"""Archives: every container reads alike, nothing unsafe is listed, damage is named, images are checked."""

import io
import re
import stat
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fewshot.data import archives, decode
from fewshot.data.archives import Member, members, opened, read
from fewshot.errors import UserError
from tests.made_files import FILLS, fill_folder, fill_tar, fill_zip, picture

FILES = {f"x/{i}.png": bytes([i]) * (i + 1) for i in range(5)}


@pytest.mark.parametrize("kind", FILLS)
def test_every_container_reads_alike(tmp_path: Path, kind: str) -> None:
    FILLS[kind](tmp_path, FILES)
    wanted = list(reversed(members(tmp_path)))
    assert [m.parts[-1] for m in wanted] == ["4.png", "3.png", "2.png", "1.png", "0.png"]
    assert {wanted[i].parts[-1]: data for i, data in read(wanted)} == {
        f"{i}.png": FILES[f"x/{i}.png"] for i in range(5)
    }
    with opened(wanted[0]) as stream:
        assert stream.read() == FILES["x/4.png"]


def test_unsafe_names_are_left_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bad = ["../out.png", "/abs.png", "a/../../b.png", "a\\..\\b.png", "__MACOSX/a/1.png", "a/._1.png"]
    fill_zip(tmp_path / "a.zip", dict.fromkeys([*bad, "good/1.png"], b"1"))
    fill_tar(tmp_path / "a.tgz", dict.fromkeys([*bad, "good/2.png"], b"1"))
    assert sorted(m.name for m in members(tmp_path)) == ["good/1.png", "good/2.png"]
    told = capfd.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in told] == [str(tmp_path / "a.tgz"), str(tmp_path / "a.zip")]
    assert all("4 files left out" in line for line in told)


def test_links_are_left_out(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            entry = tarfile.TarInfo("link.png")
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
    assert members(tmp_path) == []


def test_large_members_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "FILE_BYTES", 100)
    files = {"a/1.png": b"1" * 100, "a/2.png": b"1" * 101}
    fill_zip(tmp_path / "a.zip", files)
    fill_tar(tmp_path / "b.tgz", files)
    fill_folder(tmp_path / "c", files)
    assert [m.parts[-1] for m in members(tmp_path)] == ["1.png"] * 3


def test_a_circle_of_linked_folders_ends(tmp_path: Path) -> None:
    fill_folder(tmp_path / "a", {"1.png": b"1"})
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert len(members(tmp_path)) == 1


def test_skipped_and_single_places(tmp_path: Path) -> None:
    fill_folder(tmp_path, {"mini/1.png": b"1", "cub/2.png": b"1", "other/mini/3.png": b"1", "4.png": b"1"})
    assert [m.name for m in members(tmp_path, skip=["mini"])] == ["4.png", "cub/2.png", "other/mini/3.png"]
    assert [m.name for m in members(tmp_path / "4.png")] == ["4.png"]
    assert members(tmp_path / "nowhere") == []


@pytest.mark.parametrize("kind", ["zip", "tgz"])
@pytest.mark.parametrize("keep", [0.4, 0.9])
def test_a_truncated_archive_is_named(tmp_path: Path, kind: str, keep: float) -> None:
    noise = np.random.default_rng(0).bytes(30_000)
    file = tmp_path / f"cut.{kind}"
    {"zip": fill_zip, "tgz": fill_tar}[kind](file, {"a/1.png": noise, "a/2.png": noise[::-1]})
    file.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])
    with pytest.raises(UserError, match="complete copy") as error:
        members(tmp_path)
    assert str(file) in str(error.value)


def test_a_flipped_byte_is_named(tmp_path: Path) -> None:
    fill_zip(tmp_path / "a.zip", {"a/1.png": b"1" * 1000})
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[500] ^= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.zip cannot be read"):
        list(read(members(tmp_path)))


def test_a_compressed_file_that_is_no_tar_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "notes.gz").write_bytes(b"\x1f\x8b" + b"junk" * 100)
    assert [m.kind for m in members(tmp_path)] == ["file"]


@pytest.mark.parametrize("data", [b"", b"no image", picture()[:40], picture(200, 64, form="JPEG")[:-300]])
def test_a_broken_image_is_named(data: bytes) -> None:
    with pytest.raises(UserError, match=r"the/file.png is no readable image"):
        decode.decode(data, 8, 3, "the/file.png")


def test_a_huge_image_is_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MAX_PIXELS", 99)
    assert decode.decode(picture(side=9), 8, 3, "x").shape == (8, 8, 3)
    with pytest.raises(UserError, match="10 x 10 pixels"):
        decode.decode(picture(side=10), 8, 3, "x")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_decodes(mode: str, channels: int) -> None:
    pixels = decode.decode(picture(255, 8, mode), 4, channels, "x")
    assert pixels.shape == (4, 4, channels)
    assert pixels.dtype == np.uint8
    assert (pixels == 255).all()


def test_sixteen_bits_are_refused() -> None:
    out = io.BytesIO()
    Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(out, "PNG")
    with pytest.raises(UserError, match="8 bits"):
        decode.decode(out.getvalue(), 8, 1, "x")


def sixteen_bit_png(channels: int) -> bytes:
    """PIL writes no coloured one."""
    header = struct.pack(">IIBBBBB", 2, 2, 16, {1: 0, 3: 2}[channels], 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(range(2 * 2 * channels))) * 2)
    parts = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    packed = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_of_any_colours_are_refused(channels: int) -> None:
    with pytest.raises(
        UserError, match=r"the/file\.png has more than 8 bits a channel: convert it to 8 bits"
    ):
        decode.decode(sixteen_bit_png(channels), 8, channels, "the/file.png")


def test_a_photograph_stands_as_it_was_taken() -> None:
    pixels = np.zeros((8, 8), dtype=np.uint8)
    pixels[:4] = 255  # the upper half, before the camera was turned
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", exif=exif)
    assert np.array_equal(decode.decode(out.getvalue(), 8, 1, "x")[..., 0], np.rot90(pixels, -1))


@pytest.mark.parametrize("form", ["PNG", "GIF", "WEBP", "TIFF"])
def test_of_several_pictures_the_first_is_taken(form: str) -> None:
    out = io.BytesIO()
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("white", "black"))
    first.save(out, form, save_all=True, append_images=[second])
    assert (decode.decode(out.getvalue(), 8, 3, "x") == 255).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode: str) -> None:
    """Its own colour is often black, as that of the ink: nothing would be left of a drawing."""
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 4, 8))
    out = io.BytesIO()
    image.convert(mode).save(out, "PNG")
    pixels = decode.decode(out.getvalue(), 8, 1, "x")[..., 0]
    assert (pixels[:, :4] == 0).all()
    assert (pixels[:, 4:] == 255).all()


def test_inks_of_print_are_converted() -> None:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 60)).convert("CMYK").save(out, "TIFF")
    assert decode.decode(out.getvalue(), 8, 3, "x")[0, 0].tolist() == [200, 30, 60]


@pytest.mark.parametrize("side", [10_000, 2**31 - 1])
def test_a_refused_image_is_one_line_without_pils_warnings(side: int) -> None:
    """In a process of its own: pytest has filters of its own."""
    data = bytearray(picture())
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    code = "from fewshot.data.decode import decode\n"
    code += f"try: decode({bytes(data)!r}, 8, 3, 'x')\nexcept Exception as error: print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == ""
    assert re.fullmatch(
        r"x (has 10000 x 10000 pixels: shrink|is no readable image \(.*\): replace).*\n", done.stdout
    )


def test_a_line_names_no_place_in_memory() -> None:
    with pytest.raises(UserError, match=r"x is no readable image \(JPEG, PNG.*\): replace or remove it"):
        decode.decode(b"no image", 8, 3, "x")


def test_large_images_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file can hold sixty million pixels, and there are as many threads as cores."""
    monkeypatch.setattr(decode, "LARGE_PIXELS", 60)
    at_work, most = [0], [0]
    original = decode.resize

    def counting(*told: Any) -> Any:
        at_work[0] += 1
        most[0] = max(most[0], at_work[0])
        time.sleep(0.01)
        at_work[0] -= 1
        return original(*told)

    monkeypatch.setattr(decode, "resize", counting)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: decode.decode(picture(side=8), 8, 3, "x"), range(12)))
    assert most == [1]


def test_few_bytes_wait_for_being_decoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    image, taken = picture(), []

    def padded(wanted: Sequence[Member]) -> Iterator[tuple[int, bytes]]:
        for row in range(len(wanted)):
            taken.append(row)
            yield row, image + b"\0" * 4 * 2**20  # what follows an image does not matter

    monkeypatch.setattr(decode, "read", padded)
    files = {f"{i}.png": Member(tmp_path / "a.zip", "zip", f"{i}.png") for i in range(100)}
    content = decode.from_members({"train": {"a": files}, "val": {}, "test": {}}, 8, 3)
    next(iter(content.images))
    assert len(taken) * 4 * 2**20 <= 40 * 2**20


def test_resize_is_the_bilinear_one_of_torchvision() -> None:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import resize

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (105, 105), dtype=np.uint8))
    expected = np.asarray(resize(image, [28, 28], InterpolationMode.BILINEAR, antialias=True))
    assert np.array_equal(decode.resize(image, 28, 1)[..., 0], expected)
