"""The readers of Omniglot, miniImageNet, CUB and a user's own folder, on small made-up files."""

import hashlib
import pickle
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from fewshot.data import published
from fewshot.data.images import open_or_prepare
from fewshot.data.table import Table
from fewshot.episodes import SPLITS
from fewshot.errors import UserError
from tests.made_files import FILLS, fill_folder, fill_tar, fill_zip, picture


def prepare(tmp_path: Path, name: str, channels: int = 3, path: Path | None = None) -> Table:
    return open_or_prepare(name, tmp_path / "raw", tmp_path / "prepared", 8, channels, path, download=False)


def names(table: Table) -> dict[str, tuple[str, ...]]:
    return {split: classes.names for split, classes in table.splits.items()}


def read(tmp_path: Path, files: dict[str, bytes]) -> Table:
    """The table of a user's own folder with these files."""
    fill_folder(tmp_path / "zoo", files)
    return prepare(tmp_path, "folder", path=tmp_path / "zoo")


def fails(tmp_path: Path, *said: str, name: str = "folder", path: Path | None = None) -> None:
    """Preparing fails in one line that says all of `said`, and leaves no table."""
    with pytest.raises(UserError) as error:
        prepare(tmp_path, name, path=path)
    for words in said:
        assert words in str(error.value)
    assert not list((tmp_path / "prepared").glob("[!.]*"))


# ------------------------------------------------------------ Omniglot and CUB

PLACES = [
    *("images_background/Greek/character01", "images_background/Hebrew/character02"),
    *("images_evaluation/Gurmukhi/character41", "images_evaluation/Gurmukhi/character42"),
]


def smaller(monkeypatch: pytest.MonkeyPatch, name: str, images: int) -> None:
    known = published.DOWNLOADS[name]._replace(images=images)
    monkeypatch.setitem(published.DOWNLOADS, name, known)


def test_omniglot_from_a_zip_and_a_folder(tmp_path, monkeypatch):
    smaller(monkeypatch, "omniglot", 80)
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
    assert table.images.shape == (80, 8, 8, 1)
    assert table.images[:, 0, 0, 0].tolist()[:20] == [255 - 12 * i for i in range(20)]  # ink is 255


def birds(classes: int) -> dict[str, bytes]:
    there = [f"{i:03}.Bird_{i}" for i in range(1, classes + 1)]
    files = {f"CUB_200_2011/images/{bird}/{bird[4:]}_0001.jpg": picture(100, form="JPEG") for bird in there}
    files |= {f"segmentations/{bird}/{bird[4:]}_0001.png": picture() for bird in there}
    return files | {"CUB_200_2011/images.txt": b"1 x"}


def test_cub_split_and_grey_images(tmp_path, monkeypatch):
    smaller(monkeypatch, "cub", 200)
    smaller(monkeypatch, "cub50", 50)
    files = birds(200)
    files[next(iter(files))] = picture(50, mode="L", form="JPEG")
    fill_tar(tmp_path / "raw" / "cub" / "CUB_200_2011.tgz", files)
    table = prepare(tmp_path, "cub")
    assert [len(of.names) for of in table.splits.values()] == [100, 50, 50]
    assert (table.images[0] == 50).all()
    part = prepare(tmp_path, "cub50")
    assert [len(of.names) for of in part.splits.values()] == [25, 13, 12]
    assert names(part)["val"][:2] == ("002.Bird_2", "006.Bird_6")


@pytest.mark.parametrize("name", ["omniglot", "mini", "cub"])
def test_nothing_there_says_where_to_put_what(tmp_path, name):
    files = {"omniglot": "images_background.zip", "mini": "train.csv", "cub": "CUB_200_2011.tgz"}
    fails(tmp_path, str(tmp_path / "raw" / name), f"put {files[name]}", name=name)


def test_a_download_is_checked(tmp_path):
    fill_folder(tmp_path, {"there/a.zip": b"data"})
    raw, right = tmp_path / "raw", hashlib.md5(b"data").hexdigest()
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "there")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a.zip"
        for place, md5 in ((url, "0" * 32), (f"{url}.gone", right), ("http://127.0.0.1:9/b.zip", right)):
            with pytest.raises(UserError, match=f"cannot download .*: get {place}"):
                published.download(place, md5, raw)
        assert not (raw / "a.zip").exists()
        published.download(url, right, raw)
        server.shutdown()
    published.download(url, right, raw)  # it is there
    assert (raw / "a.zip").read_bytes() == b"data"


def test_download_only_what_is_missing(tmp_path, monkeypatch):
    fetched = []

    def fetch(url, _md5, folder):
        fetched.append(url)
        fill_tar(folder / "CUB_200_2011.tgz", birds(200))

    smaller(monkeypatch, "cub", 200)
    monkeypatch.setattr(published, "download", fetch)
    load = partial(open_or_prepare, "cub", tmp_path / "raw", tmp_path / "prepared", 8, 3)
    assert len(load().images) == len(load().images) == 200
    assert len(fetched) == 1


# ------------------------------------------------------------ miniImageNet

Values = dict[str, dict[str, list[int]]]
FOUR: Values = {"train": {"n1": [1, 2], "n2": [3, 4]}, "val": {"n3": [5, 6]}, "test": {"n4": [7, 8]}}


@pytest.fixture(autouse=True)
def small_mini(monkeypatch):
    monkeypatch.setattr(published, "MINI", {"train": 2, "val": 1, "test": 1})


def placed(place: str) -> dict[str, bytes]:
    """An image of each grey value of FOUR."""
    each = [(s, c, v) for s, classes in FOUR.items() for c, values in classes.items() for v in values]
    return {place.format(s=s, c=c, v=v): picture(v) for s, c, v in each}


def csv_files(listed: str = "{c}{v}.png") -> dict[str, bytes]:
    """Ravi's three lists."""
    rows = {s: [(c, v) for c, values in classes.items() for v in values] for s, classes in FOUR.items()}
    lines = {s: [f"{listed.format(c=c, v=v)},{c}" for c, v in each] for s, each in rows.items()}
    return {f"{s}.csv": "\r\n".join(["filename,label", *each]).encode() for s, each in lines.items()}


def check_four(table: Table) -> None:
    assert names(table) == {"train": ("n1", "n2"), "val": ("n3",), "test": ("n4",)}
    assert table.images[:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_mini_from_csv_files(tmp_path):
    home, files = tmp_path / "raw" / "mini", list(placed("images/{c}{v}.png").items())
    fill_folder(home, csv_files())
    fill_zip(home / "images-train-1.zip", dict(files[:3]))
    fill_folder(home, dict(files[4:]))
    fails(tmp_path, str(home), f"{files[3][0][7:]} is there twice, or names 0 images", name="mini")
    fill_tar(home / "images-test.tar.gz", dict(files[3:5]))  # one image is there twice
    check_four(prepare(tmp_path, "mini"))


def test_mini_from_class_folders(tmp_path):
    files = placed("mini-imagenet/{s}/{c}/{v}.png")
    fill_zip(
        tmp_path / "raw" / "mini" / "a.zip", {name: d for name, d in files.items() if "/n2/" not in name}
    )
    fails(tmp_path, "'train': 1", "'train': 2", name="mini")
    fill_zip(tmp_path / "raw" / "mini" / "b.zip", files)
    check_four(prepare(tmp_path, "mini"))


def pickles(protocol: int = 2, values: Values = FOUR) -> dict[str, bytes]:
    files = {}
    for split, classes in values.items():
        greys = [v for c in classes for v in classes[c]]
        pixels = np.tile(np.array(greys, dtype=np.uint8)[:, None, None, None], (1, 8, 8, 3))
        rows = {c: [np.int64(greys.index(v)) for v in classes[c]] for c in reversed(classes)}
        data = pickle.dumps({"image_data": pixels, "class_dict": rows}, protocol)
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
    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def test_a_pickle_cannot_run_code(tmp_path):
    mark = tmp_path / "ran"
    for attack in (Evil(Path.touch, mark), Evil(eval, f"open({str(mark)!r}, 'w')")):
        data = pickle.dumps({"image_data": attack, "class_dict": {}})
        fill_folder(tmp_path / "raw" / "mini", dict.fromkeys(pickles(), data))
        fails(tmp_path, ".pkl is no usable pickle", "wants to run", name="mini")
    assert not mark.exists()


def test_a_damaged_pickle_or_a_class_in_two_is_named(tmp_path):
    cut = {name: data[:-40] for name, data in pickles().items()}
    fill_folder(tmp_path / "raw" / "mini", cut)
    fails(tmp_path, ".pkl is no usable pickle", name="mini")
    fill_folder(tmp_path / "raw" / "mini", pickles(values=FOUR | {"val": {"n1": [5, 6]}}))
    fails(tmp_path, "class n1 is in 2 splits", name="mini")


# ------------------------------------------------------------ a user's own folder


def animals(number: int = 4) -> dict[str, bytes]:
    forms = ["PNG", "JPEG", "BMP", "GIF", "WEBP"]
    each = [(i, j, form) for i in range(number) for j, form in enumerate(forms, start=1)]
    return {f"animal{i}/{j}.{form.lower()}": picture(i, form=form) for i, j, form in each}


def in_folders(place: str = "{split}/{name}") -> dict[str, bytes]:
    splits = ("train", "train", "val", "test")
    return {place.format(split=splits[int(n[6])], name=n): data for n, data in animals().items()}


LABELS = "\n".join(["filename,label", *(f"{n},{n[:7]}" for n in animals())]).encode()
ROWS = [f"{name.replace('/', ',', 1)},{name.split('/')[1]}" for name in in_folders()]
ALL = "\n".join(["split,filename,label", *ROWS]).encode()


@pytest.mark.parametrize("kind", FILLS)
def test_class_folders_with_a_seeded_split(tmp_path, kind):
    files = {f"wild/{name}": data for name, data in animals(10).items()}
    FILLS[kind](tmp_path / "zoo", files | {"readme.txt": b"hello", "loose.png": picture()})
    table = prepare(tmp_path, "folder", path=tmp_path / "zoo")
    assert [len(of.names) for of in table.splits.values()] == [6, 2, 2]
    assert names(table)["val"] == ("wild/animal0", "wild/animal8")  # the same for ever
    assert names(table)["test"] == ("wild/animal2", "wild/animal6")
    assert table.images.shape == (50, 8, 8, 3)
    for said in ("the names of folders", "64/16/20%", "50 of 51 images"):
        assert said in table.note


def test_split_folders_and_a_csv_with_a_split(tmp_path):
    split = {"train": ("animal0", "animal1"), "val": ("animal2",), "test": ("animal3",)}
    listed = read(tmp_path, animals() | {"all.csv": ALL})
    assert names(listed) == split
    assert "20 of 20 images, with classes and any split from all.csv" in listed.note
    fill_folder(tmp_path / "images", in_folders("images/{split}/{name}"))
    assert names(prepare(tmp_path, "folder", path=tmp_path / "images")) == split
    fill_folder(tmp_path / "deep", in_folders("{split}/wild/{name}"))
    assert names(prepare(tmp_path, "folder", path=tmp_path / "deep"))["val"] == ("wild/animal2",)


def test_a_split_without_validation_takes_it_from_training(tmp_path):
    files = {f"{'test' if name[6] in '789' else 'train'}/{name}": data for name, data in animals(10).items()}
    table = read(tmp_path, files)
    assert [len(of.names) for of in table.splits.values()] == [6, 1, 3]
    assert names(table)["test"] == ("animal7", "animal8", "animal9")
    assert "a fifth of the training classes for validation" in table.note


@pytest.mark.parametrize("listed", ["{v}.png", "{c}/{v}.png", "images/{c}/{v}.png"])
def test_three_csv_files(tmp_path, listed):
    check_four(read(tmp_path, placed("images/{c}/{v}.png") | csv_files(listed)))


def test_a_csv_of_labels(tmp_path):
    numbers = [(c, 100 * c + i, 20 * c + i) for c in range(10) for i in range(4)]
    files = {f"batch{n % 3}/{n}.png": picture(grey) for _, n, grey in numbers}
    rows = "\n".join(["filename,label", *(f"{n}.png,Käfer {c}" for c, n, _ in numbers)])
    table = read(tmp_path, files | {"labels.csv": rows.encode(), "batch0/extra.png": picture(255)})
    kinds = [int(name[-1]) for split in SPLITS for name in names(table)[split]]
    assert sorted(kinds) == list(range(10))
    assert table.images[:, 0, 0, 0].tolist() == [20 * c + i for c in kinds for i in range(4)]
    assert "40 of 41 images" in table.note


REFUSED: list[tuple[dict[str, bytes], str]] = [
    (in_folders() | {"labels.csv": LABELS}, "labels.csv and folders train, val and test"),
    (animals() | {"a.csv": ALL, "b.csv": LABELS}, "a.csv, b.csv: keep one"),
    (placed("{c}{v}.png") | csv_files() | {"b/train.csv": LABELS}, "b/train.csv"),
    (in_folders("a/{split}/{name}") | in_folders("b/{split}/{name}"), "in and beside folders train"),
    (in_folders() | {"validation/animal9/1.png": picture()}, "in and beside folders train"),
    (in_folders() | {"val/animal0/1.png": picture(9)}, "class animal0 is in 2 splits"),
    (animals(2), "train, val and test each need a class"),
    (animals() | {"a.csv": b"image,label\nanimal0/1.png,4"}, "a.csv: the columns of a csv"),
    (animals() | {"a.csv": b"filename,label\nanimal0/1.png"}, "a.csv: the columns of a csv"),
    (animals() | {"a.csv": b"filename,label,split\nanimal0/1.png,a,left"}, "a split is train, val or test"),
    (placed("{c}{v}.png") | csv_files() | {"val.csv": ALL}, "val.csv: cannot insert split"),
    (animals() | {"a.csv": b"filename,label\nanimal0/1.png,a\nanimal0/2.jpeg,big, fat"}, "a.csv: "),
    (animals() | {"a.csv": "filename,label\nanimal0/1.png,Käfer".encode("cp1252")}, "a.csv: "),
    (animals() | {"a.csv": b"filename,label\nanimal0/9.png,a"}, "a.csv: animal0/9.png|0 images"),
    (animals() | {"a.csv": b"filename,label\n1.png,a"}, "a.csv: 1.png|4 images"),
    (animals() | {"a.csv": LABELS + b"\nanimal0/1.png,b"}, "a.csv: animal0/1.png is there twice"),
]


@pytest.mark.parametrize(("files", "said"), REFUSED)
def test_a_folder_is_never_guessed_at(tmp_path, files, said):
    fill_folder(tmp_path / "zoo", files)
    fails(tmp_path, *said.split("|"), path=tmp_path / "zoo")


def test_a_folder_missing_empty_or_damaged(tmp_path):
    fails(tmp_path, "data.path=", path=tmp_path / "nowhere")
    (tmp_path / "zoo").mkdir()
    fails(tmp_path, "each need a class", path=tmp_path / "zoo")
    fill_folder(tmp_path / "zoo", animals(10) | {"animal3/1.png": b"no image"})
    fails(tmp_path, "animal3/1.png is no readable image", path=tmp_path / "zoo")
