"""Archives: every container reads alike, and damage is named. Images: every kind is decoded, or named."""

import base64
import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from fewshot.data.folder import files_in
from fewshot.data.table import Example, decode
from fewshot.errors import UserError
from tests.made_files import FILLS, fill_folder, fill_tar, fill_zip, picture

FILES = {f"x/{i}.png": bytes([i]) * (i + 1) for i in range(5)}


@pytest.mark.parametrize("kind", FILLS)
def test_every_container_reads_alike(tmp_path, kind):
    FILLS[kind](tmp_path, FILES | {"__MACOSX/x/._1.png": b"1", ".x/1.png": b"1"})
    files = {name: read() for name, read in files_in(tmp_path).items()}
    assert files == FILES


def test_one_path_is_one_file(tmp_path):
    fill_folder(tmp_path, FILES)
    fill_zip(tmp_path / "copy.zip", FILES)
    assert set(files_in(tmp_path)) == set(FILES)
    fill_zip(tmp_path / "other.zip", FILES | {"x/3.png": b"other"})
    with pytest.raises(UserError, match=r"x/3\.png is there twice .* in other\.zip"):
        files_in(tmp_path)


def test_nothing_outside_the_folder_is_read_or_written(tmp_path):
    fill_zip(tmp_path / "in" / "a.zip", {"../out.png": b"1", "/abs.png": b"2"})
    with tarfile.open(tmp_path / "in" / "a.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            entry = tarfile.TarInfo("link.png")
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
    assert [read() for read in files_in(tmp_path / "in").values()] == [b"2"]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("kind", ["zip", "tgz"])
@pytest.mark.parametrize("keep", [0.4, 0.9])
def test_a_truncated_archive_is_named(tmp_path, kind, keep):
    noise = np.random.default_rng(0).bytes(30_000)
    file = tmp_path / f"cut.{kind}"
    {"zip": fill_zip, "tgz": fill_tar}[kind](file, {"a/1.png": noise, "a/2.png": noise[::-1]})
    file.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])
    with pytest.raises(UserError, match=rf"cannot read cut\.{kind}"):
        files_in(tmp_path)


def decoded(data, size, channels):
    return decode(size, channels, Example("train", "a", "the/file.png", lambda: data))


def saved(image, form="PNG", **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


GREY16 = saved(Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)))
COLOURS16 = base64.b64decode(  # which PIL cannot write
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACEAIAAACtREYwAAAAGElEQVR4nGNgYGRiZmFlY+fg5OJmQOYAAAWwAIXFGPkFAAAAAElFTkSuQmCC"
)
UNUSABLE = {
    "is no readable image": (b"", b"no image", picture()[:40], picture(200, 64, form="JPEG")[:-300]),
    "has more than 8 bits a channel": (GREY16, COLOURS16),
}


@pytest.mark.parametrize("why", UNUSABLE)
def test_a_broken_image_or_one_of_16_bits_is_named(why):
    for data in UNUSABLE[why]:
        with pytest.raises(UserError, match=rf"the/file\.png {why}"):
            decoded(data, 8, 3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_decodes(mode, channels):
    pixels = decoded(picture(255, 8, mode), 4, channels)
    assert pixels.shape == (4, 4, channels)
    assert pixels.dtype == np.uint8
    assert (pixels == 255).all()


def test_a_photograph_is_turned_as_its_exif_says():
    pixels = np.zeros((8, 8), dtype=np.uint8)
    pixels[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    data = saved(Image.fromarray(pixels), exif=exif)
    assert np.array_equal(decoded(data, 8, 1)[..., 0], np.rot90(pixels, -1))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white(mode):
    """Their own colour is often black, as that of the ink: nothing would be left of a drawing."""
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 4, 8))
    pixels = decoded(saved(image.convert(mode)), 8, 1)[..., 0]
    assert (pixels[:, :4] == 0).all()
    assert (pixels[:, 4:] == 255).all()
