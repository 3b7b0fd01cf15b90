"""The readers of Omniglot, CUB and miniImageNet, on small made-up files."""

import hashlib
import pickle
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from fewshot.data import images
from fewshot.data.images import download
from fewshot.episodes import SPLITS
from fewshot.errors import UserError
from tests.made_files import (
    FOUR,
    check_four,
    csv_files,
    fails,
    fill_folder,
    fill_tar,
    fill_zip,
    names,
    picture,
    placed,
    prepare,
)

PLACES = [
    *("images_background/Greek/character01", "images_background/Hebrew/character02"),
    *("images_evaluation/Gurmukhi/character41", "images_evaluation/Gurmukhi/character42"),
]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Fewer images and classes than are published."""
    monkeypatch.setattr(images, "MINI", {"train": 2, "val": 1, "test": 1})
    monkeypatch.setattr(images, "download", lambda *_: None)
    for name, number in {"omniglot": 80, "cub": 200, "cub50": 50}.items():
        monkeypatch.setitem(images.DOWNLOADS, name, images.DOWNLOADS[name]._replace(images=number))


def test_omniglot_from_a_zip_and_a_folder(tmp_path):
    files = {f"{place}/{i:02}.png": picture(12 * i, mode="L") for place in PLACES for i in range(20)}
    background = {name: data for name, data in files.items() if "background" in name}
    last = files.popitem()
    fill_zip(tmp_path / "raw" / "omniglot" / "renamed.zip", background)
    fill_folder(tmp_path / "raw" / "omniglot", files)  # the background is there twice
    said = ("79 of 80 images", "images_evaluation.zip", str(tmp_path / "raw" / "omniglot"))
    fails(tmp_path, *said, name="omniglot")
    fill_folder(tmp_path / "raw" / "omniglot", dict([last]))
    table = prepare(tmp_path, "omniglot", channels=1)
    assert names(table) == {"train": (PLACES[0], PLACES[2]), "val": (PLACES[1],), "test": (PLACES[3],)}
    assert table.rows.shape == (80, 8, 8, 1)
    assert table.rows[:, 0, 0, 0].tolist()[:20] == [255 - 12 * i for i in range(20)]  # ink is 255


def birds(classes):
    there = [f"{i:03}.Bird_{i}" for i in range(1, classes + 1)]
    files = {f"CUB_200_2011/images/{bird}/{bird[4:]}_0001.jpg": picture(100, form="JPEG") for bird in there}
    files |= {f"segmentations/{bird}/{bird[4:]}_0001.png": picture() for bird in there}
    return files | {"CUB_200_2011/images.txt": b"1 x"}


def test_cub_split_and_grey_images(tmp_path):
    files = birds(200)
    files[next(iter(files))] = picture(50, mode="L", form="JPEG")
    fill_tar(tmp_path / "raw" / "cub" / "CUB_200_2011.tgz", files)
    table = prepare(tmp_path, "cub")
    assert [len(of) for of in table.splits.values()] == [100, 50, 50]
    assert (table.rows[0] == 50).all()
    part = prepare(tmp_path, "cub50")
    assert [len(of) for of in part.splits.values()] == [25, 13, 12]
    assert names(part)["val"][:2] == ("002.Bird_2", "006.Bird_6")


@pytest.mark.parametrize("name", ["omniglot", "mini", "cub"])
def test_nothing_there_says_where_to_put_what(tmp_path, name):
    files = {"omniglot": "images_background.zip", "mini": "train.csv", "cub": "CUB_200_2011.tgz"}
    fails(tmp_path, str(tmp_path / "raw" / name), files[name], name=name)


def test_a_download_is_checked(tmp_path):
    fill_folder(tmp_path, {"there/a.zip": b"data"})
    raw, right = tmp_path / "raw", hashlib.md5(b"data").hexdigest()
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "there")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a.zip"
        for place, md5 in ((url, "0" * 32), (f"{url}.gone", right), ("http://127.0.0.1:9/b.zip", right)):
            with pytest.raises(UserError, match=f"cannot download .*: get {place}"):
                download(place, md5, raw)
        assert not (raw / "a.zip").exists()
        download(url, right, raw)
        server.shutdown()
    download(url, right, raw)  # it is there
    assert (raw / "a.zip").read_bytes() == b"data"


def test_download_only_what_is_missing(tmp_path, monkeypatch):
    fetch = Mock(side_effect=lambda _url, _md5, home: fill_tar(home / "CUB_200_2011.tgz", birds(200)))
    monkeypatch.setattr(images, "download", fetch)
    for _ in range(2):
        assert len(prepare(tmp_path, "cub").rows) == 200
    fetch.assert_called_once()


def test_mini_from_csv_files(tmp_path):
    home, files = tmp_path / "raw" / "mini", list(placed("images/{c}{v}.png").items())
    fill_folder(home, csv_files())
    fill_zip(home / "images-train-1.zip", dict(files[:3]))
    fill_folder(home, dict(files[4:]))
    fails(tmp_path, str(home), f"{files[3][0][7:]} is listed twice, or names 0 images", name="mini")
    fill_tar(home / "images-test.tar.gz", dict(files[3:5]))  # one image is there twice
    check_four(prepare(tmp_path, "mini"))


def test_mini_from_class_folders(tmp_path):
    files, home = placed("mini-imagenet/{s}/{c}/{v}.png"), tmp_path / "raw" / "mini"
    fill_zip(home / "a.zip", {name: data for name, data in files.items() if "/n2/" not in name})
    fails(tmp_path, "'train': 1", "'train': 2", name="mini")
    fill_zip(home / "b.zip", files)
    check_four(prepare(tmp_path, "mini"))


def pickles(protocol=2, four=FOUR):
    files = {}
    for split in SPLITS:
        rows = [(c, v) for s, c, v in four if s == split]
        greys = np.array([v for _, v in rows], dtype=np.uint8)
        pixels = np.tile(greys[:, None, None, None], (1, 8, 8, 3))
        classes = {
            c: [np.int64(i) for i, row in enumerate(rows) if row[0] == c] for c in reversed(dict(rows))
        }
        data = pickle.dumps({"image_data": pixels, "class_dict": classes}, protocol)
        files[f"mini-imagenet-cache-{split}.pkl"] = data
    return files


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_mini_from_pickles(tmp_path, protocol):
    files = pickles(protocol)
    if protocol == 2:  # the older name of a module; its length is not written beside it in this protocol
        files = {name: data.replace(b"numpy._core.", b"numpy.core.") for name, data in files.items()}
    fill_tar(tmp_path / "raw" / "mini" / "mini-imagenet.tar.gz", files)
    check_four(prepare(tmp_path, "mini"))


class Evil:
    def __reduce__(self):
        return self.call


def test_a_pickle_cannot_run_code(tmp_path):
    mark, attack = tmp_path / "ran", Evil()
    for attack.call in ((Path.touch, (mark,)), (eval, (f"open({str(mark)!r}, 'w')",))):
        data = pickle.dumps({"image_data": attack, "class_dict": {}})
        fill_folder(tmp_path / "raw" / "mini", dict.fromkeys(pickles(), data))
        fails(tmp_path, ".pkl is no usable pickle", "wants to run", name="mini")
    assert not mark.exists()


def test_a_damaged_pickle_or_a_class_in_two_is_named(tmp_path):
    cut = {name: data[:-40] for name, data in pickles().items()}
    fill_folder(tmp_path / "raw" / "mini", cut)
    fails(tmp_path, ".pkl is no usable pickle", name="mini")
    twice = [(s, "n1" if s == "val" else c, v) for s, c, v in FOUR]
    fill_folder(tmp_path / "raw" / "mini", pickles(four=twice))
    fails(tmp_path, "class n1 is in 2 splits", name="mini")
