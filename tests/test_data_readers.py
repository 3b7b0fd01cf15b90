"""The readers of Omniglot, miniImageNet, CUB and a user's own folder, on small made-up files."""

import hashlib
import json
import pickle
import threading
import unicodedata
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from fewshot.data import cub, images, mini, omniglot
from fewshot.data.images import download_to, open_or_prepare
from fewshot.data.splits import seeded
from fewshot.data.table import Table
from fewshot.episodes import SPLITS
from fewshot.errors import UserError
from tests.made_files import FILLS, fill_folder, fill_tar, fill_zip, picture


def prepare(tmp_path: Path, name: str, size: int = 8, channels: int = 3, path: Path | None = None) -> Table:
    return open_or_prepare(
        name, tmp_path / "raw", tmp_path / "prepared", size, channels, path, download=False
    )


def names(table: Table) -> dict[str, tuple[str, ...]]:
    return {split: classes.names for split, classes in table.splits.items()}


def sizes(table: Table) -> list[int]:
    return [len(classes.names) for classes in table.splits.values()]


def read(tmp_path: Path, files: dict[str, bytes]) -> Table:
    """The table of a folder with these files."""
    fill_folder(tmp_path / "zoo", files)
    return prepare(tmp_path, "folder", path=tmp_path / "zoo")


def fails(tmp_path: Path, *said: str, **call: object) -> None:
    """Preparing fails in one line that says all of `said`, and leaves no table."""
    with pytest.raises(UserError) as error:
        prepare(tmp_path, **call)
    for words in said:
        assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "prepared").glob("[!.]*"))


# ------------------------------------------------------------ Omniglot

PLACES = [
    *("images_background/Greek/character01", "images_background/Hebrew/character02"),
    *("images_evaluation/Gurmukhi/character41", "images_evaluation/Gurmukhi/character42"),
]


@pytest.fixture
def small_omniglot(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    monkeypatch.setattr(omniglot, "CHARACTERS", {"images_background": 2, "images_evaluation": 2})
    return {f"{place}/{i:02}.png": picture(12 * i, mode="L") for place in PLACES for i in range(20)}


def test_omniglot_from_a_zip_and_a_folder(tmp_path: Path, small_omniglot: dict[str, bytes]) -> None:
    background = {name: data for name, data in small_omniglot.items() if "background" in name}
    fill_zip(tmp_path / "raw" / "omniglot" / "renamed.zip", background)
    fill_folder(tmp_path / "raw" / "omniglot", small_omniglot)  # the background is there twice
    table = prepare(tmp_path, "omniglot", channels=1)
    assert names(table) == {"train": (PLACES[0], PLACES[2]), "val": (PLACES[1],), "test": (PLACES[3],)}
    assert table.images.shape == (80, 8, 8, 1)
    assert table.images[:20, 0, 0, 0].tolist() == [255 - 12 * i for i in range(20)]  # ink is 255


def test_omniglot_incomplete(tmp_path: Path, small_omniglot: dict[str, bytes]) -> None:
    small_omniglot.pop(f"{PLACES[3]}/07.png")
    fill_folder(tmp_path / "raw" / "omniglot", small_omniglot)
    said = ("1 of 2 characters", "images_evaluation.zip", str(tmp_path / "raw" / "omniglot"))
    fails(tmp_path, *said, name="omniglot")


def test_nothing_there_says_where_to_put_what(tmp_path: Path) -> None:
    for name in ("omniglot", "mini", "cub"):
        fails(tmp_path, str(tmp_path / "raw" / name), name=name)


# ------------------------------------------------------------ miniImageNet

Values = dict[str, dict[str, list[int]]]
FOUR: Values = {"train": {"n1": [1, 2], "n2": [3, 4]}, "val": {"n3": [5, 6]}, "test": {"n4": [7, 8]}}


@pytest.fixture(autouse=True)
def small_mini(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mini, "CLASSES", {"train": 2, "val": 1, "test": 1})


def csv_files(listed: str = "{c}{v}.png", values: Values = FOUR) -> dict[str, bytes]:
    """Ravi's three lists."""
    files = {}
    for split, classes in values.items():
        rows = [f"{listed.format(c=c, v=v)},{c}" for c in classes for v in classes[c]]
        files[f"{split}.csv"] = "\r\n".join(["filename,label", *rows]).encode()
    return files


def placed(place: str = "images/{c}{v}.png", values: Values = FOUR) -> dict[str, bytes]:
    """An image of each grey value."""
    return {
        place.format(s=split, c=c, v=v): picture(v)
        for split, classes in values.items()
        for c in classes
        for v in classes[c]
    }


def check_four(table: Table) -> None:
    assert names(table) == {"train": ("n1", "n2"), "val": ("n3",), "test": ("n4",)}
    assert table.images[:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_mini_from_csv_files(tmp_path: Path) -> None:
    home, files = tmp_path / "raw" / "mini", list(placed().items())
    fill_folder(home, csv_files())
    fill_zip(home / "images-train-1.zip", dict(files[:3]))
    fill_tar(home / "images-test.tar.gz", dict(files[3:5]))
    fill_folder(home / "c", dict(files[4:]))  # one image is there twice
    check_four(prepare(tmp_path, "mini"))


def test_mini_names_a_missing_image(tmp_path: Path) -> None:
    files = placed() | csv_files()
    del files["images/n12.png"], files["images/n48.png"]
    fill_folder(tmp_path / "raw" / "mini", files)
    fails(tmp_path, "2 images", "n12.png", str(tmp_path / "raw" / "mini"), name="mini")


def test_mini_from_class_folders(tmp_path: Path) -> None:
    fill_zip(tmp_path / "raw" / "mini" / "mini.zip", placed("mini-imagenet/{s}/{c}/{v}.png"))
    check_four(prepare(tmp_path, "mini"))


def test_mini_with_too_few_classes(tmp_path: Path) -> None:
    few = FOUR | {"train": {"n1": [1, 2]}}
    fill_folder(tmp_path / "raw" / "mini", csv_files(values=few) | placed(values=few))
    fails(tmp_path, "'train': 1", "'train': 2", name="mini")


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
def test_mini_from_pickles(tmp_path: Path, protocol: int) -> None:
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


def test_a_pickle_cannot_run_code(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    for attack in (
        Evil(Path.touch, mark),
        Evil(open, str(mark), "w"),
        Evil(eval, f"open({str(mark)!r}, 'w')"),
    ):
        data = pickle.dumps({"image_data": attack, "class_dict": {}})
        fill_folder(tmp_path / "raw" / "mini", dict.fromkeys(pickles(), data))
        fails(tmp_path, "mini-imagenet-cache-train.pkl", "wants to run", name="mini")
    assert not mark.exists()


def test_a_damaged_pickle_or_a_class_in_two_is_named(tmp_path: Path) -> None:
    cut = {name: data[:-40] for name, data in pickles().items()}
    fill_folder(tmp_path / "raw" / "mini", cut)
    fails(tmp_path, "mini-imagenet-cache-train.pkl", "complete copy", name="mini")
    fill_folder(tmp_path / "raw" / "mini", pickles(values=FOUR | {"val": {"n1": [5, 6]}}))
    fails(tmp_path, "class n1 is in train and val", name="mini")


# ------------------------------------------------------------ CUB


def birds(classes: int) -> dict[str, bytes]:
    there = [f"{i:03}.Bird_{i}" for i in range(1, classes + 1)]
    files = {f"CUB_200_2011/images/{bird}/{bird[4:]}_0001.jpg": picture(100, form="JPEG") for bird in there}
    files |= {f"segmentations/{bird}/{bird[4:]}_0001.png": picture() for bird in there}
    return files | {"CUB_200_2011/images.txt": b"1 x"}


@pytest.fixture
def small_cub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cub, "IMAGES", {200: 200, 50: 50})


@pytest.mark.usefixtures("small_cub")
def test_cub_split_and_grey_images(tmp_path: Path) -> None:
    files = birds(200)
    files[next(iter(files))] = picture(50, mode="L", form="JPEG")
    fill_tar(tmp_path / "raw" / "cub" / "CUB_200_2011.tgz", files)
    table = prepare(tmp_path, "cub")
    assert sizes(table) == [100, 50, 50]
    assert (table.images[0] == 50).all()
    part = prepare(tmp_path, "cub50")
    assert sizes(part) == [25, 13, 12]
    assert names(part)["val"][:2] == ("002.Bird_2", "006.Bird_6")


def test_cub_incomplete(tmp_path: Path) -> None:
    fill_zip(tmp_path / "raw" / "cub50" / "a.zip", birds(50))
    fails(tmp_path, "50 of 2889 images", "CUB_200_2011.tgz", name="cub50")


# ------------------------------------------------------------ downloads


def test_a_download_is_checked(tmp_path: Path) -> None:
    fill_folder(tmp_path, {"there/a.zip": b"data"})
    raw, right = tmp_path / "raw", hashlib.md5(b"data").hexdigest()
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "there")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a.zip"
        for place, md5 in ((url, "0" * 32), (f"{url}.gone", right), ("http://127.0.0.1:9/b.zip", right)):
            with pytest.raises(UserError, match="cannot download") as error:
                download_to(raw, place, md5)
            assert f"get {place} and put {place.rpartition('/')[2]} into {raw}" in str(error.value)
        assert not (raw / "a.zip").exists()
        download_to(raw, url, right)
        server.shutdown()
    download_to(raw, url, right)  # it is there
    assert (raw / "a.zip").read_bytes() == b"data"


@pytest.mark.usefixtures("small_cub")
def test_download_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def fetch(folder: Path, url: str, _md5: str) -> None:
        fetched.append(url)
        fill_tar(folder / "CUB_200_2011.tgz", birds(200))

    monkeypatch.setattr(images, "download_to", fetch)
    load = partial(open_or_prepare, "cub", tmp_path / "raw", tmp_path / "prepared", 8, 3)
    assert len(load().images) == len(load().images) == 200
    assert len(fetched) == 1


# ------------------------------------------------------------ a user's own folder


def animals(number: int = 4) -> dict[str, bytes]:
    forms = ["PNG", "JPEG", "BMP", "GIF", "WEBP"]
    return {
        f"animal{i}/{j}.{form.lower()}": picture(i, form=form)
        for i in range(number)
        for j, form in enumerate(forms, start=1)
    }


def in_folders(train: str = "train", val: str = "val", test: str = "test") -> dict[str, bytes]:
    folders = (train, train, val, test)
    return {f"{folders[int(name[6])]}/{name}": data for name, data in animals().items()}


def table_of(columns: str, row: str = "{file},{label},{split}") -> bytes:
    """A csv of the animals."""
    rows = []
    for name in animals():
        label = name.split("/")[0]
        rows.append(
            row.format(file=name, label=label, split=("train", "train", "val", "test")[int(label[6])])
        )
    return "\n".join([columns, *dict.fromkeys(rows)]).encode()


SPLIT = {"train": ("animal0", "animal1"), "val": ("animal2",), "test": ("animal3",)}
LABELS = table_of("filename,label", "{file},{label}")
CLASS_SPLIT = table_of("class,split", "{label},{split}")


@pytest.mark.parametrize("kind", FILLS)
def test_class_folders_with_a_seeded_split(tmp_path: Path, kind: str) -> None:
    FILLS[kind](tmp_path / "zoo", animals(10) | {"readme.txt": b"hello"})
    table = prepare(tmp_path, "folder", path=tmp_path / "zoo")
    assert sizes(table) == [6, 2, 2]
    assert table.images.shape == (50, 8, 8, 3)
    for said in ("the names of folders", "64/16/20%", "50 of 50 images", "not read: ", "readme.txt"):
        assert said in table.note


def test_a_changed_folder_is_another_table(tmp_path: Path) -> None:
    assert len(read(tmp_path, animals(10)).images) == 50
    assert len(read(tmp_path, {"animal0/new.png": picture()}).images) == 51
    assert len(list((tmp_path / "prepared").glob("folder-zoo-*-8-rgb"))) == 2


@pytest.mark.parametrize(
    "words",
    [
        ("train", "validation", "test"),
        ("TRAINING", "valid", "tests"),
        ("base", "val", "novel"),
        ("meta-train", "meta-val", "meta-test"),
        ("images/train", "images/dev", "images/testing"),
    ],
)
def test_split_folders(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert names(read(tmp_path, in_folders(*words))) == SPLIT


def test_a_split_without_validation_takes_it_from_training(tmp_path: Path) -> None:
    files = {f"{'test' if name[6] in '789' else 'train'}/{name}": data for name, data in animals(10).items()}
    table = read(tmp_path, files)
    assert sizes(table) == [6, 1, 3]
    assert names(table)["test"] == ("animal7", "animal8", "animal9")
    assert "a fifth of the training classes for validation" in table.note


LISTS: dict[str, dict[str, bytes]] = {
    "a row an image": {"all.csv": table_of("filename,label,split")},
    "a row a class": {"split.csv": CLASS_SPLIT},
    "columns in capitals": {"s.csv": CLASS_SPLIT.replace(b"class,split", b"Class,Split")},
    "classes of a split": {
        "split.json": json.dumps(dict(zip(("base", "val", "novel"), SPLIT.values(), strict=True))).encode()
    },
    "split of a class": {"split.json": json.dumps({c: s for s, cs in SPLIT.items() for c in cs}).encode()},
    "texts of images": {
        f"{s}.txt": "\n".join(n for n in animals() if n.startswith(classes)).encode()
        for s, classes in SPLIT.items()
    },
    "texts": {f"splits/mine/{s}.txt": "\n".join(classes).encode() for s, classes in SPLIT.items()},
}


@pytest.mark.parametrize("form", LISTS)
def test_lists_of_a_split(tmp_path: Path, form: str) -> None:
    table = read(tmp_path, animals() | LISTS[form])
    assert names(table) == SPLIT
    assert len(table.images) == 20
    assert next(iter(LISTS[form])).split("/")[-1] in table.note


def test_a_list_and_folders_that_agree_are_read(tmp_path: Path) -> None:
    assert names(read(tmp_path, in_folders() | {"all.csv": table_of("filename,label,split")})) == SPLIT


@pytest.mark.parametrize(
    ("place", "listed"),
    [
        ("images/{c}{v}.png", "{c}{v}.png"),
        ("images/{c}/{v}.png", "{c}/{v}.png"),
        ("images/{c}/{v}.png", "images\\{c}\\{v}.png"),
        ("images/{c}/{v}.png", "./zoo/images/{c}/{v}"),
        ("images/{c}/{v}.png", "{c}/{v}.PNG"),
    ],
)
def test_lists_name_images_by_the_end_of_their_path(tmp_path: Path, place: str, listed: str) -> None:
    check_four(read(tmp_path, placed(place) | csv_files(listed)))


def test_of_several_images_the_one_in_the_folder_of_its_class_is_taken(tmp_path: Path) -> None:
    values = {split: {c: [1, 2, 3] for c in classes} for split, classes in FOUR.items()}
    files = placed("{c}/{v}.png", values) | csv_files("{v}.png", values)
    files["n4/1.png"] = picture(99)
    assert read(tmp_path, files).images[:, 0, 0, 0].tolist() == [*[1, 2, 3] * 3, 99, 2, 3]


def test_copies_in_an_archive_count_once(tmp_path: Path) -> None:
    fill_zip(tmp_path / "zoo" / "all.zip", {f"zoo/{name}": data for name, data in placed().items()})
    check_four(read(tmp_path, placed() | csv_files()))
    fill_zip(tmp_path / "two" / "two.zip", in_folders())
    fill_folder(tmp_path / "two" / "two", in_folders())
    assert names(prepare(tmp_path, "folder", path=tmp_path / "two")) == SPLIT


def batches() -> dict[str, bytes]:
    """Images of ten kinds in folders that are not classes."""
    return {f"batch{i % 3}/{100 * c + i}.png": picture(20 * c + i) for c in range(10) for i in range(4)}


def label_csv(columns: str = "filename,label", row: str = "{n}.png,kind {c}") -> bytes:
    rows = [row.format(n=100 * c + i, c=c) for c in range(10) for i in range(4)]
    return "\n".join([columns, *rows]).encode()


@pytest.mark.parametrize(
    ("columns", "row", "encoding"),
    [
        ("filename,label", "{n}.png,kind {c}", "utf-8"),
        ("FILE_NAME,CATEGORY", "{n}.png,kind {c}", "utf-8-sig"),
        ("id,label", "{n},kind {c}", "utf-8"),
        ("Image Id;Species", "{n} ; kind {c}", "utf-8"),
        ("path\tclass", "{n}.PNG\tkind {c}\t", "utf-16"),
        (",id,image,breed,width", "7,{n},{n}.png,kind {c},3", "utf-8"),
    ],
)
def test_a_csv_of_labels(tmp_path: Path, columns: str, row: str, encoding: str) -> None:
    data = label_csv(columns, row).decode().replace("kind", "Käfer").encode(encoding)
    table = read(tmp_path, batches() | {"labels.csv": data, "batch0/extra.png": picture(255)})
    assert sorted(sum(names(table).values(), ())) == [f"Käfer {c}" for c in range(10)]
    assert sizes(table) == [6, 2, 2]
    kinds = [int(name[-1]) for split in SPLITS for name in names(table)[split]]
    assert table.images[:, 0, 0, 0].tolist() == [20 * c + i for c in kinds for i in range(4)]
    assert "labels.csv" in table.note
    assert "10 classes, 40 of 41 images" in table.note


def test_a_csv_of_labels_with_a_list_of_classes(tmp_path: Path) -> None:
    split = {"train": [f"kind {c}" for c in range(6)], "val": ["kind 6", "kind 7"], "test": ["kind 8"]}
    table = read(tmp_path, batches() | {"labels.csv": label_csv(), "split.json": json.dumps(split).encode()})
    assert names(table) == {split: tuple(classes) for split, classes in split.items()}
    assert (table.images[:, 0, 0, 0] < 180).all()


def test_a_download_from_kaggle(tmp_path: Path) -> None:
    files = {f"train/{name.split('/')[1]}": data for name, data in batches().items()}
    files |= {f"test/t{i}.png": picture(250 + i) for i in range(3)}
    files |= {"train.csv": label_csv("id,label", "{n},kind {c}"), "test.csv": b"id\nt0\nt1\nt2"}
    table = read(tmp_path, files | {"sample_submission.csv": b"id,label\nt0,kind 0"})
    assert sum(sizes(table)) == 10
    assert "40 of 43 images" in table.note
    assert "not read: sample_submission.csv, test.csv" in table.note


TWO_WAYS = "more than one way"
ALL = table_of("filename,label,split")
B_LISTS = {f"b/{name}": data for name, data in csv_files().items()}
V2_FOLDERS = {f"v2/{name}": data + b"." for name, data in in_folders().items()}
TWO_PARTS = {"train_images/1.png": picture(), "test_images/2.png": picture()}
TWO_LABELS = b"image,label\ntrain_images/1.png,a\ntest_images/2.png,b"
REFUSED: list[tuple[dict[str, bytes], str]] = [
    # two sources of labels, or of a split
    (in_folders() | {"labels.csv": LABELS}, f"{TWO_WAYS}|labels.csv|split folders"),
    (animals() | {"a.csv": CLASS_SPLIT, "b.csv": CLASS_SPLIT}, f"{TWO_WAYS}|a.csv|b.csv"),
    (animals() | {"a.csv": LABELS, "s.csv": ALL}, f"{TWO_WAYS}|a.csv|s.csv"),
    (placed() | csv_files() | B_LISTS, f"{TWO_WAYS}|zoo/train.csv|b/train.csv"),
    (in_folders() | {"s.csv": ALL.replace(b"test", b"val", 1)}, f"{TWO_WAYS}|s.csv|in test by its folder"),
    (in_folders() | V2_FOLDERS, "classes are in the folders|v2"),
    # what looks like a split
    (animals() | {"labels.xlsx": b"x"}, "cannot read labels.xlsx as labels or a split"),
    (animals() | {"split.mat": b"x"}, "cannot read split.mat as labels or a split"),
    (animals() | {"novel_classes.txt": b"animal0"}, "cannot read novel_classes.txt as labels or a split"),
    (
        animals() | {"a.csv": LABELS, "test_classes.csv": b"class\nanimal0"},
        "cannot read test_classes.csv as labels or a split",
    ),
    (animals() | {"partition.csv": b"class,partition\nanimal0,1"}, "column partition looks like a split"),
    (animals() | {"a.csv": b"image,set\n0.png,train\n1.png,test"}, "column set looks like a split"),
    (animals() | {"a.csv": b"image,label,is_train\nanimal0/1.png,4,1"}, "column is_train looks like"),
    (animals() | {"unseen/animal9/1.png": picture(200)}, "cannot read unseen as labels or a split"),
    (
        {f"{s}/{i}.png": picture(i) for s in SPLITS for i in range(3)},
        "cannot read test, train, val as labels or a split",
    ),
    (TWO_PARTS | {"a.csv": TWO_LABELS}, "cannot read test_images, train_images as labels or a split"),
    # classes that are not clear
    (animals() | {"Animal0/1.png": picture()}, "'Animal0' and 'animal0' differ only in case"),
    (in_folders() | {"val/animal0/1.png": picture(9)}, "class animal0 is in train and val"),
    (animals() | {"a.csv": LABELS + b"\nanimal0/1.png,b"}, "listed under two classes"),
    (animals(2), "a class or more for each of train, val and test"),
    # lists that cannot be read
    (animals() | {"a.csv": b"image,label,category\nanimal0/1.png,4,5"}, "a.csv|label, category"),
    (animals() | {"a.csv": b"class,split\nanimal0,left\n"}, "a.csv|'left'"),
    (
        animals() | {"a.csv": b"class,split\nnobody,train\n"},
        "a.csv lists nobody, which matches 0 class folders",
    ),
    (animals() | {"a.csv": b"class,split\nanimal0\n"}, "a.csv has an incomplete row|class, split"),
    (animals() | {"a.csv": b"image,label\nanimal0/1.png,big, fat"}, "a.csv has an incomplete row"),
    (animals() | {"a.csv": b'image,label\nanimal0/1.png,"big\nanimal0/2.jpeg,small'}, "a.csv is no csv"),
    (animals() | {"a.csv": "image,label\nanimal0/1.png,Käfer".encode("cp1252")}, "a.csv is not UTF-8"),
    (animals() | {"a.csv": b"animal0/1.png,4\nanimal0/2.jpeg,5"}, "a.csv has no header"),
    (animals() | {"split.json": b'{"train": ["animal0"], "test": "animal3"}'}, "cannot read split.json"),
    (animals() | {"a.csv": b"image,label\nanimal0/9.png,a"}, "1 images are missing|animal0/9.png"),
    (animals() | {"a.csv": b"image,label\n1.png,a"}, "a.csv lists 1.png, which matches 4 images"),
]


@pytest.mark.parametrize(("files", "said"), REFUSED)
def test_a_folder_is_never_guessed_at(tmp_path: Path, files: dict[str, bytes], said: str) -> None:
    fill_folder(tmp_path / "zoo", files)
    fails(tmp_path, *said.split("|"), name="folder", path=tmp_path / "zoo")


def test_archives_named_as_splits_are_an_error(tmp_path: Path) -> None:
    fill_zip(tmp_path / "zoo" / "zoo_train.zip", animals())
    fill_zip(tmp_path / "zoo" / "zoo_test.zip", {f"x{name}": data for name, data in animals(7).items()})
    fails(
        tmp_path,
        "cannot read zoo_test.zip, zoo_train.zip as labels or a split",
        name="folder",
        path=tmp_path / "zoo",
    )


def test_a_folder_missing_empty_or_damaged(tmp_path: Path) -> None:
    fails(tmp_path, "data.path=", name="folder", path=tmp_path / "nowhere")
    (tmp_path / "zoo").mkdir()
    fails(tmp_path, "a class or more", name="folder", path=tmp_path / "zoo")
    fill_folder(tmp_path / "zoo", animals(10) | {"animal3/1.png": b"no image"})
    fails(tmp_path, str(tmp_path / "zoo" / "animal3" / "1.png"), name="folder", path=tmp_path / "zoo")


class MacEntry(zipfile.ZipInfo):
    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.filename.encode(), self.flag_bits


def test_a_zip_of_another_system(tmp_path: Path) -> None:
    """Backslashes of Windows; macOS's own files, and names in UTF-8 that are not marked as such."""
    fill_zip(
        tmp_path / "windows.zip", {f"Zoo\\{name}".replace("/", "\\"): d for name, d in animals(10).items()}
    )
    assert sizes(prepare(tmp_path, "folder", path=tmp_path / "windows.zip")) == [6, 2, 2]
    files = {f"Käfer{name}": data for name, data in animals().items()} | {"__MACOSX/._x.png": b"x"}
    files["labels.csv"] = table_of("image,label,split", "Käfer{file},{label},{split}")
    with zipfile.ZipFile(tmp_path / "mac.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(MacEntry(unicodedata.normalize("NFD", name)), data)
    assert names(prepare(tmp_path, "folder", path=tmp_path / "mac.zip")) == SPLIT


def test_the_seeded_split_is_fixed() -> None:
    classes = [f"class{i}" for i in range(100)]
    split = seeded(classes)
    assert split == seeded(reversed(classes)) != seeded(classes, seed=1)
    assert [list(split.values()).count(s) for s in SPLITS] == [64, 16, 20]
    assert hashlib.sha256(repr(sorted(split.items())).encode()).hexdigest()[:8] == "42de88c2"


def test_wrong_arguments(tmp_path: Path) -> None:
    fails(tmp_path, "no image data imagenet with channels=2", name="imagenet", channels=2)
