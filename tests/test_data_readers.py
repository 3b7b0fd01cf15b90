"""The readers of Omniglot, miniImageNet, CUB and anybody's folder, on small made-up files."""

import json
import os
import pickle
import unicodedata
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fewshot.data import cub, images, mini, omniglot
from fewshot.data.images import open_or_prepare
from fewshot.data.splits import seeded
from fewshot.data.table import Table
from fewshot.errors import UserError
from tests.made_files import fill_folder, fill_tar, fill_zip, picture

SPLITS = ("train", "val", "test")


def prepare(tmp_path: Path, name: str, size: int = 8, channels: int = 3, path: Path | None = None) -> Table:
    return open_or_prepare(
        name, tmp_path / "raw", tmp_path / "prepared", size, channels, path, download=False
    )


def names(table: Table) -> dict[str, tuple[str, ...]]:
    return {split: classes.names for split, classes in table.splits.items()}


def fails(tmp_path: Path, *said: str, **call: object) -> None:
    """Preparing fails in one line that says all of `said`, and leaves no table."""
    with pytest.raises(UserError) as error:
        prepare(tmp_path, **call)
    for words in said:
        assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "prepared").glob("[!.]*"))


# Omniglot

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
    fill_folder(
        tmp_path / "raw", {name: data for name, data in small_omniglot.items() if "evaluation" in name}
    )
    table = prepare(tmp_path, "omniglot", channels=1)
    assert names(table) == {"train": (PLACES[0], PLACES[2]), "val": (PLACES[1],), "test": (PLACES[3],)}
    assert table.images.shape == (80, 8, 8, 1)
    assert table.images[:20, 0, 0, 0].tolist() == [255 - 12 * i for i in range(20)]  # ink is 255


def test_omniglot_incomplete(tmp_path: Path, small_omniglot: dict[str, bytes]) -> None:
    small_omniglot.pop(f"{PLACES[3]}/07.png")
    fill_folder(tmp_path / "raw", small_omniglot)
    fails(
        tmp_path,
        "1 of 2 characters",
        "images_evaluation.zip",
        str(tmp_path / "raw" / "omniglot"),
        name="omniglot",
    )


def test_no_raw_folder(tmp_path: Path) -> None:
    for name in images.READERS:
        fails(tmp_path, f"raw folder {tmp_path / 'raw'} does not exist", name=name)


# miniImageNet


@pytest.fixture
def small_mini(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, list[int]]]:
    """Split -> class -> grey values of its images."""
    monkeypatch.setattr(mini, "CLASSES", {"train": 2, "val": 1, "test": 1})
    return {"train": {"n1": [1, 2], "n2": [3, 4]}, "val": {"n3": [5, 6]}, "test": {"n4": [7, 8]}}


def csv_files(wanted: dict[str, dict[str, list[int]]]) -> dict[str, bytes]:
    lines = {s: [f"{c}{v}.png,{c}" for c in classes for v in classes[c]] for s, classes in wanted.items()}
    return {f"{s}.csv": "\r\n".join(["filename,label", *lines[s]]).encode() for s in wanted}


def mini_images(wanted: dict[str, dict[str, list[int]]]) -> dict[str, bytes]:
    return {f"images/{c}{v}.png": picture(v) for cs in wanted.values() for c in cs for v in cs[c]}


def check_mini(table: Table) -> None:
    assert names(table) == {"train": ("n1", "n2"), "val": ("n3",), "test": ("n4",)}
    assert table.images[:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_mini_from_csv_files(tmp_path: Path, small_mini: dict) -> None:
    files = list(mini_images(small_mini).items())
    fill_folder(tmp_path / "raw", csv_files(small_mini))
    fill_zip(tmp_path / "raw" / "mini" / "a.zip", dict(files[:3]))
    fill_tar(tmp_path / "raw" / "mini" / "b.tar.gz", dict(files[3:5]))
    fill_folder(tmp_path / "raw" / "mini" / "c", dict(files[4:]))  # one image is there twice
    check_mini(prepare(tmp_path, "mini"))


def test_mini_names_a_missing_image(tmp_path: Path, small_mini: dict) -> None:
    files = mini_images(small_mini)
    del files["images/n12.png"], files["images/n48.png"]
    fill_folder(tmp_path / "raw" / "mini", csv_files(small_mini) | files)
    place = tmp_path / "raw" / "mini" / "images" / "n12.png"
    fails(tmp_path, "2 images", str(place), name="mini")


def test_mini_from_class_folders(tmp_path: Path, small_mini: dict) -> None:
    files = {
        f"mini-imagenet/{s}/{c}/{v}.png": picture(v)
        for s, cs in small_mini.items()
        for c in cs
        for v in cs[c]
    }
    fill_zip(tmp_path / "raw" / "mini.zip", files)
    check_mini(prepare(tmp_path, "mini"))


def test_mini_with_too_few_classes(tmp_path: Path, small_mini: dict) -> None:
    del small_mini["train"]["n1"]
    fill_folder(tmp_path / "raw" / "mini", csv_files(small_mini) | mini_images(small_mini))
    fails(tmp_path, "'train': 1", "'train': 2", name="mini")


def pickle_of(classes: dict[str, list[int]], protocol: int) -> bytes:
    values = [v for c in classes for v in classes[c]]
    pixels = np.tile(np.array(values, dtype=np.uint8)[:, None, None, None], (1, 8, 8, 3))
    where = {c: [np.int64(values.index(v)) for v in classes[c]] for c in reversed(classes)}
    return pickle.dumps({"image_data": pixels, "class_dict": where}, protocol)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("old", [False, True])
def test_mini_from_pickles(tmp_path: Path, small_mini: dict, protocol: int, old: bool) -> None:
    files = {f"mini-imagenet-cache-{s}.pkl": pickle_of(small_mini[s], protocol) for s in SPLITS}
    if (
        old and protocol == 2
    ):  # the older module name; a string's length is not written beside it in this protocol
        assert all(b"numpy._core." in data for data in files.values())
        files = {name: data.replace(b"numpy._core.", b"numpy.core.") for name, data in files.items()}
    fill_tar(tmp_path / "raw" / "mini-imagenet.tar.gz", files)
    check_mini(prepare(tmp_path, "mini"))


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
        fill_folder(tmp_path / "raw" / "mini", {f"mini-imagenet-cache-{s}.pkl": data for s in SPLITS})
        fails(tmp_path, "mini-imagenet-cache-train.pkl", "wants to run", name="mini")
    assert not mark.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        pickle_of({"n1": [1, 2]}, 4)[:-40],
        pickle.dumps([1]),
        pickle.dumps({"image_data": np.zeros((2, 8, 8, 3)), "class_dict": {"a": [0]}}),
        pickle.dumps({"image_data": np.zeros((2, 8, 8, 3), dtype=np.uint8), "class_dict": {"a": [2]}}),
        pickle.dumps(
            {"image_data": np.zeros((2, 8, 8, 3), dtype=np.uint8), "class_dict": {"a": [0], "b": [0, 1]}}
        ),
    ],
)
def test_a_damaged_pickle_is_named(tmp_path: Path, data: bytes) -> None:
    fill_folder(tmp_path / "raw" / "mini", {f"mini-imagenet-cache-{s}.pkl": data for s in SPLITS})
    fails(tmp_path, "mini-imagenet-cache-train.pkl", "complete copy", name="mini")


def test_a_class_in_two_pickles_is_named(tmp_path: Path, small_mini: dict) -> None:
    shared = small_mini | {"val": small_mini["val"] | dict([next(iter(small_mini["train"].items()))])}
    fill_folder(
        tmp_path / "raw" / "mini", {f"mini-imagenet-cache-{s}.pkl": pickle_of(shared[s], 2) for s in SPLITS}
    )
    fails(tmp_path, "mini-imagenet-cache-train.pkl) is in train and in val", name="mini")


# CUB


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
    first = next(iter(files))
    files[first] = picture(50, mode="L", form="JPEG")
    fill_tar(tmp_path / "raw" / "cub" / "CUB_200_2011.tgz", files)
    table = prepare(tmp_path, "cub")
    assert {split: len(found) for split, found in names(table).items()} == {
        "train": 100,
        "val": 50,
        "test": 50,
    }
    assert (table.images[0] == 50).all()
    part = prepare(tmp_path, "cub50")
    assert {split: len(found) for split, found in names(part).items()} == {"train": 25, "val": 13, "test": 12}
    assert names(part)["val"][:2] == ("002.Bird_2", "006.Bird_6")


@pytest.mark.usefixtures("small_cub")
def test_cub_incomplete(tmp_path: Path) -> None:
    fill_zip(tmp_path / "raw" / "cub50" / "a.zip", birds(50))
    fails(tmp_path, "50 of 200 classes", "data=cub50", name="cub")
    assert len(prepare(tmp_path, "cub50").images) == 50


def test_cub_with_missing_images(tmp_path: Path) -> None:
    fill_zip(tmp_path / "raw" / "a.zip", birds(50))
    fails(tmp_path, "50 of 2889 images", name="cub50")


# anybody's folder


def animals(number: int = 10) -> dict[str, bytes]:
    forms = ["PNG", "JPEG", "BMP", "GIF", "WEBP"]
    return {
        f"animal{i}/{j}.{form.lower()}": picture(i, form=form)
        for i in range(number)
        for j, form in enumerate(forms, start=1)
    }


def test_folder_with_a_seeded_split(tmp_path: Path) -> None:
    path = tmp_path / "zoo"
    fill_folder(path, animals() | {"readme.txt": b"hello", "loose.png": picture()})
    table = prepare(tmp_path, "folder", path=path)
    assert {split: len(found) for split, found in names(table).items()} == {"train": 6, "val": 2, "test": 2}
    assert sum(names(table).values(), ()) == tuple(n for s in SPLITS for n in sorted(names(table)[s]))
    assert "64/16/20%" in table.note
    assert "1 images in no class" in table.note
    assert table.images.shape == (50, 8, 8, 3)


def test_folder_changes_make_a_new_table(tmp_path: Path) -> None:
    path = tmp_path / "zoo"
    fill_folder(path, animals())
    assert len(prepare(tmp_path, "folder", path=path).images) == 50
    fill_folder(path, {"animal0/new.png": picture()})
    assert len(prepare(tmp_path, "folder", path=path).images) == 51
    assert len(list((tmp_path / "prepared").glob("folder-zoo-*-8-rgb"))) == 2


def test_folder_split_by_folders(tmp_path: Path) -> None:
    split_of = ("train", "train", "val", "test")
    files = {f"{split_of[int(name[6])]}/{name}": data for name, data in animals(4).items()}
    fill_folder(tmp_path / "zoo", files)
    table = prepare(tmp_path, "folder", path=tmp_path / "zoo")
    assert names(table) == {"train": ("animal0", "animal1"), "val": ("animal2",), "test": ("animal3",)}


def test_a_class_in_two_splits_is_refused(tmp_path: Path) -> None:
    files = {
        f"{split}/animal0/{i}.png": picture(40 * i + n) for n, split in enumerate(SPLITS) for i in range(3)
    }
    fill_folder(tmp_path / "zoo", files)
    fails(
        tmp_path,
        "class animal0 (",
        "is in train and in val",
        "each class to one split",
        name="folder",
        path=tmp_path / "zoo",
    )


SPLIT_OF = ("train", "train", "val", "test")
TOLD = {"train": ("animal0", "animal1"), "val": ("animal2",), "test": ("animal3",)}


@pytest.mark.parametrize(
    "words",
    [
        ("train", "validation", "test"),
        ("Train", "Val", "Test"),
        ("TRAINING", "valid", "tests"),
        ("base", "val", "novel"),
        ("meta-train", "meta-val", "meta-test"),
        ("images/train", "images/dev", "images/testing"),
    ],
)
def test_folders_named_as_the_field_does(tmp_path: Path, words: tuple[str, ...]) -> None:
    word = dict(zip(SPLITS, words, strict=True))
    files = {f"{word[SPLIT_OF[int(name[6])]]}/{name}": data for name, data in animals(4).items()}
    fill_folder(tmp_path / "zoo", files)
    assert names(prepare(tmp_path, "folder", path=tmp_path / "zoo")) == TOLD


def rows_of(columns: str, of_class: bool = False) -> bytes:
    files = [(name, name.split("/")[0]) for name in animals(4)]
    told = [(file.split("/")[1], label, SPLIT_OF[int(label[6])]) for file, label in files]
    lines = [
        f"{label},{split}" if of_class else f"{label}/{file},{label},{split}" for file, label, split in told
    ]
    return "\n".join([columns, *dict.fromkeys(lines)]).encode()


FILES = {s: [name for name in animals(4) if name.split("/")[0] in classes] for s, classes in TOLD.items()}
LISTS: dict[str, dict[str, bytes]] = {
    "a row an image": {"all.csv": rows_of("filename,label,split")},
    "a row a class": {"split.csv": rows_of("class,split", True)},
    "columns in capitals": {"s.csv": rows_of("Class,Split", True)},
    "classes of a split": {
        "split.json": json.dumps(dict(zip(("base", "val", "novel"), TOLD.values(), strict=True))).encode()
    },
    "split of a class": {"split.json": json.dumps({c: s for s, cs in TOLD.items() for c in cs}).encode()},
    "texts": {f"splits/mine/{s}.txt": "\n".join(classes).encode() for s, classes in TOLD.items()},
    "texts of files": {f"{s}.txt": "\n".join(files).encode() for s, files in FILES.items()},
}


@pytest.mark.parametrize("form", LISTS)
def test_splits_that_a_file_lists(tmp_path: Path, form: str) -> None:
    fill_folder(tmp_path / "zoo", animals(4) | LISTS[form])
    table = prepare(tmp_path, "folder", path=tmp_path / "zoo")
    assert names(table) == TOLD
    assert len(table.images) == 20
    assert next(iter(LISTS[form])).split("/")[-1].split(".")[0] in table.note or "txt" in table.note


@pytest.mark.parametrize("listed", ["class{c}/{i}.png", "{i}.png", "images/class{c}/{i}.png"])
def test_listed_images_are_found_by_path_or_class(tmp_path: Path, listed: str) -> None:
    """Each class has a 0.png, and the list need not begin where the folder does."""
    colours = {(c, i): picture(20 * c + i) for c in range(3) for i in range(4)}
    files = {f"images/class{c}/{i}.png": data for (c, i), data in colours.items()}
    rows = [f"{listed.format(c=c, i=i)},class{c},{('train', 'val', 'test')[c]}" for c, i in colours]
    fill_folder(tmp_path / "zoo", files | {"all.csv": "\n".join(["filename,label,split", *rows]).encode()})
    table = prepare(tmp_path, "folder", path=tmp_path / "zoo")
    (tmp_path / "zoo" / "all.csv").write_text(
        "\n".join(["class,split", *(f"class{c},{('train', 'val', 'test')[c]}" for c in range(3))])
    )
    assert (prepare(tmp_path, "folder", path=tmp_path / "zoo").images == table.images).all()


def test_a_split_without_validation_takes_it_from_training(tmp_path: Path) -> None:
    files = {f"{'test' if name[6] in '789' else 'train'}/{name}": data for name, data in animals(10).items()}
    fill_folder(tmp_path / "zoo", files)
    table = prepare(tmp_path, "folder", path=tmp_path / "zoo")
    assert {split: len(found) for split, found in names(table).items()} == {"train": 6, "val": 1, "test": 3}
    assert names(table)["test"] == ("animal7", "animal8", "animal9")
    assert "1 of its training classes for validation" in table.note


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"split.mat": b"x"}, "looks like a split"),
        ({"novel_classes.txt": b"animal0"}, "looks like a split"),
        ({"partition.csv": b"class,partition\nanimal0,1"}, "looks like a split"),
        ({"annotations.csv": b"image,set\n0.png,train\n1.png,test"}, "has the columns image, set"),
        ({"unseen/animal9/1.png": picture(200)}, "looks like a split"),
        ({"ILSVRC_train/a/1.png": picture(200), "ILSVRC_test/b/1.png": picture(201)}, "look like splits"),
        ({"splits.json": b"[1, 2]"}, "looks like a split"),
        ({"train.txt": b"animal0"}, "looks like a split"),
        ({"test/deep/er/animal9/1.png": picture(200)}, "looks like a split"),
        ({"a.csv": rows_of("class,split", True), "b.csv": rows_of("class,split", True)}, "keep one of them"),
        ({"a.csv": b"class,split\nanimal0,left\n"}, "a split is train, val or test"),
        (
            {"x/train.txt": b"nobody", "x/test.txt": b"animal1"},
            "zoo/x/train.txt and test.txt: 0 folders with images",
        ),
        ({"a.csv": b"class,split\nnobody,train\n"}, "0 folders with images are called 'nobody'"),
        ({"a.csv": b"filename,label,split\nnone.png,a,train\n"}, "lists none.png, which is not there"),
        (
            {"a.csv": b"filename,label,split\n1.png,a,train\n", "b/1.png": b"", "c/1.png": b""},
            "images are called so",
        ),
    ],
)
def test_splits_that_are_not_understood_are_refused(
    tmp_path: Path, extra: dict[str, bytes], said: str
) -> None:
    fill_folder(tmp_path / "zoo", animals(4) | extra)
    fails(tmp_path, said, name="folder", path=tmp_path / "zoo")


def test_images_in_train_and_test_without_classes_are_refused(tmp_path: Path) -> None:
    files = {
        f"{split}/{i}.png": picture(40 * n + i)
        for n, split in enumerate(("train", "val", "test"))
        for i in range(3)
    }
    fill_folder(tmp_path / "zoo", files)
    fails(tmp_path, "look like splits", name="folder", path=tmp_path / "zoo")


def test_a_label_in_all_csv_files_is_refused(tmp_path: Path) -> None:
    wanted = {"train": {"n1": [1, 2]}, "val": {"n1": [5, 6]}, "test": {"n1": [7, 8]}}
    fill_folder(tmp_path / "zoo", csv_files(wanted) | mini_images(wanted))
    fails(tmp_path, "class n1 (", "is in train and in val", name="folder", path=tmp_path / "zoo")


def test_an_image_in_two_splits_is_refused(tmp_path: Path) -> None:
    split_of = ("train", "val", "test")
    files = {f"{split_of[int(name[6])]}/{name}": data for name, data in animals(3).items()}
    files["test/animal2/copy.png"] = next(data for name, data in files.items() if name.startswith("train"))
    fill_folder(tmp_path / "zoo", files)
    fails(
        tmp_path,
        "train/animal0/",
        "test/animal2/copy.png",
        "are the same image",
        name="folder",
        path=tmp_path / "zoo",
    )


def test_an_image_listed_twice_is_refused(tmp_path: Path) -> None:
    wanted = {"train": {"n1": [1, 2]}, "val": {"n3": [5, 6]}, "test": {"n4": [1, 7]}}
    fill_folder(tmp_path / "zoo", csv_files(wanted) | mini_images(wanted))
    csv = (tmp_path / "zoo" / "test.csv").read_text()
    (tmp_path / "zoo" / "test.csv").write_text(csv.replace("n41.png", "n11.png"))
    fails(tmp_path, "n11.png is listed under two classes", name="folder", path=tmp_path / "zoo")


def test_pipes_and_links_to_nowhere_are_no_images(tmp_path: Path) -> None:
    fill_folder(tmp_path / "zoo", animals())
    os.mkfifo(tmp_path / "zoo" / "animal0" / "pipe.png")
    (tmp_path / "zoo" / "animal0" / "broken.png").symlink_to("nowhere")
    (tmp_path / "zoo" / "animal0" / "self.png").symlink_to("self.png")
    os.mkfifo(tmp_path / "pipe")
    assert len(prepare(tmp_path, "folder", path=tmp_path / "zoo").images) == len(animals())
    lacking = ("at least three class folders", "there is none for train and val and test")
    fails(tmp_path / "other", *lacking, name="folder", path=tmp_path / "pipe")


def test_a_name_that_is_no_text_is_named(tmp_path: Path) -> None:
    fill_folder(tmp_path / "zoo", animals())
    (tmp_path / "zoo" / "animal0" / "1.png").rename(tmp_path / "zoo" / "animal0" / os.fsdecode(b"\xff.png"))
    fails(tmp_path, "\\udcff.png' is no UTF-8 text: rename it", name="folder", path=tmp_path / "zoo")


def test_a_backslash_in_a_name_is_a_letter_like_others(tmp_path: Path) -> None:
    fill_folder(tmp_path / "zoo", animals() | {"animal0/a\\b.png": picture(99)})
    assert len(prepare(tmp_path, "folder", path=tmp_path / "zoo").images) == len(animals()) + 1


def test_folder_split_by_a_csv_of_classes(tmp_path: Path) -> None:
    table = b"class,split\nanimal0,test\nanimal1,train\nanimal2,val\n"
    fill_zip(tmp_path / "zoo.zip", animals(3) | {"split.csv": table})
    found = names(prepare(tmp_path, "folder", path=tmp_path / "zoo.zip"))
    assert found == {"train": ("animal1",), "val": ("animal2",), "test": ("animal0",)}


def test_folder_split_by_csv_files(tmp_path: Path) -> None:
    wanted = {"train": {"n1": [1, 2]}, "val": {"n3": [5, 6]}, "test": {"n4": [7, 8]}}
    path = tmp_path / "zoo"
    fill_folder(path, csv_files(wanted) | mini_images(wanted))
    assert names(prepare(tmp_path, "folder", path=path)) == {
        "train": ("n1",),
        "val": ("n3",),
        "test": ("n4",),
    }
    (path / "images" / "n12.png").unlink()
    with pytest.raises(UserError, match=r"1 images .* n12\.png"):
        prepare(tmp_path, "folder", path=path)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (b"class,split\nanimal9,train\n", "animal9"),
        (b"class,split\nanimal0,left\n", "'left'"),
        (b"name,part\nanimal0,val\n", "or class,split"),
        (
            b"class,split\nanimal0,train\n,val\n",
            "split.csv has a row with an empty class: fill it in, or remove",
        ),
        (b"filename,label,split\n , animal0,val\n", "split.csv has a row with an empty filename"),
        (b"class,split\nanimal0\n", "columns class,split in every row"),
        (b"class,split\n\xff,val\n", "is no UTF-8 text"),
        (b"x" * 200_000, "needs the columns"),
        (b"class,split\nanimal0,val\n", "three class folders"),
    ],
)
def test_folder_with_a_wrong_csv(tmp_path: Path, table: bytes, said: str) -> None:
    fill_folder(tmp_path / "zoo", animals(3) | {"split.csv": table})
    fails(tmp_path, said, str(tmp_path / "zoo"), name="folder", path=tmp_path / "zoo")


def test_folder_missing_empty_or_damaged(tmp_path: Path) -> None:
    fails(tmp_path, "path=", name="folder")
    fails(tmp_path, "nowhere", name="folder", path=tmp_path / "nowhere")
    (tmp_path / "zoo").mkdir()
    fails(tmp_path, "three class folders", name="folder", path=tmp_path / "zoo")
    fill_folder(tmp_path / "zoo", animals() | {"animal3/1.png": b"no image"})
    fails(tmp_path, str(tmp_path / "zoo" / "animal3" / "1.png"), name="folder", path=tmp_path / "zoo")


# lists of images: how a listed path names an image


def split_csvs(listed: str, ways: int = 3) -> dict[str, bytes]:
    """train.csv, val.csv and test.csv of one class each, c0 ... c2, with `listed` as the path of an image."""
    rows = {
        split: [f"{listed.format(c=c, i=i)},c{c}" for i in range(4)] for c, split in enumerate(SPLITS[:ways])
    }
    return {f"{split}.csv": "\n".join(["filename,label", *lines]).encode() for split, lines in rows.items()}


CLASS_IMAGES = {f"images/c{c}/{i}.png": picture(20 * c + i) for c in range(3) for i in range(4)}


@pytest.mark.parametrize(
    "listed", ["c{c}/{i}.png", "images\\c{c}\\{i}.png", "./images/c{c}/{i}", "{i}.png", "C{c}/{i}.PNG"]
)
def test_split_csvs_name_images_by_path(tmp_path: Path, listed: str) -> None:
    """Every class has a 0.png: the path, or else the label's folder, tells which one is meant."""
    fill_folder(tmp_path / "zoo", CLASS_IMAGES | split_csvs(listed))
    table = prepare(tmp_path, "folder", path=tmp_path / "zoo")
    assert names(table) == {"train": ("c0",), "val": ("c1",), "test": ("c2",)}
    assert table.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 20, 21, 22, 23, 40, 41, 42, 43]


def test_paths_may_begin_above_the_folder(tmp_path: Path) -> None:
    fill_folder(
        tmp_path / "zoo",
        CLASS_IMAGES | {f"images/{n}": d for n, d in split_csvs("images/c{c}/{i}.png").items()},
    )
    assert len(prepare(tmp_path, "folder", path=tmp_path / "zoo" / "images").images) == 12


def test_mini_names_images_by_path(tmp_path: Path, small_mini: dict) -> None:
    files = csv_files(small_mini)
    files["train.csv"] = b"filename,label\nn1/1.png,n1\nn1/2.png,n1\nn2\\1.png,n2\nn2\\2.png,n2"
    pictures = mini_images(small_mini) | {
        f"images/n{c}/{i}.png": picture(2 * c - 2 + i) for c in (1, 2) for i in (1, 2)
    }
    fill_folder(tmp_path / "raw" / "mini", files | pictures)
    check_mini(prepare(tmp_path, "mini"))


def test_a_path_is_never_matched_by_its_last_name_alone(tmp_path: Path) -> None:
    fill_folder(tmp_path / "zoo", CLASS_IMAGES | split_csvs("c{c}/{i}.png"))
    (tmp_path / "zoo" / "images" / "c1" / "0.png").unlink()
    fails(
        tmp_path,
        "1 images are missing",
        "lists c1/0.png, which is not there",
        name="folder",
        path=tmp_path / "zoo",
    )


def test_a_name_of_several_images_is_an_error(tmp_path: Path) -> None:
    files = {name.replace("/c", "/part"): data for name, data in CLASS_IMAGES.items()}
    fill_folder(tmp_path / "zoo", files | split_csvs("{i}.png"))
    said = ("lists 0.png, and 3 images are called so", "part0/0.png", "part1/0.png")
    fails(tmp_path, *said, name="folder", path=tmp_path / "zoo")


def test_identical_copies_count_once(tmp_path: Path) -> None:
    files = CLASS_IMAGES | split_csvs("c{c}/{i}.png")
    fill_folder(tmp_path / "zoo", files)
    fill_zip(tmp_path / "zoo" / "all.zip", files)
    table = prepare(tmp_path, "folder", path=tmp_path / "zoo")
    assert len(table.images) == 12
    fill_zip(tmp_path / "other" / "all.zip", files | {"images/c0/0.png": picture(99)})
    fill_folder(tmp_path / "other", files)
    with pytest.raises(UserError, match=r"lists c0/0\.png, and 2 images are called so"):
        prepare(tmp_path, "folder", path=tmp_path / "other")


# a csv of labels, without a split


def batches(suffix: str = ".png", number: int = 10) -> dict[str, bytes]:
    """Images in folders that are no classes."""
    return {
        f"batch{i % 3}/{100 * c + i}{suffix}": picture(20 * c + i) for c in range(number) for i in range(4)
    }


def label_csv(columns: str = "filename,label", row: str = "{n}.png,kind {c}", number: int = 10) -> bytes:
    rows = [row.format(n=100 * c + i, c=c) for c in range(number) for i in range(4)]
    return "\n".join([columns, *rows]).encode()


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        ("filename,label", "{n}.png,kind {c}"),
        ("FILE_NAME,CATEGORY", "{n}.png,kind {c}"),
        ("id,label", "{n},kind {c}"),
        ("Image Id;Species", "{n} ; kind {c}"),
        ("path\tclass", "{n}.PNG\tkind {c}"),
        (",id,image,breed,width", "7,{n},{n}.png,kind {c},3"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_labels_of_a_csv_are_the_classes(tmp_path: Path, columns: str, row: str, encoding: str) -> None:
    data = label_csv(columns, row).decode().replace("kind", "Käfer").encode(encoding)
    fill_folder(tmp_path / "zoo", batches() | {"labels.csv": data, "batch0/extra.png": picture(255)})
    table = prepare(tmp_path, "folder", path=tmp_path / "zoo")
    assert sorted(sum(names(table).values(), ())) == [f"Käfer {c}" for c in range(10)]
    assert [len(found) for found in names(table).values()] == [6, 2, 2]
    assert all((classes.counts == 4).all() for classes in table.splits.values())
    kinds = [int(name[-1]) for split in SPLITS for name in names(table)[split]]
    assert table.images[:, 0, 0, 0].tolist() == [20 * c + i for c in kinds for i in range(4)]
    assert f"zoo{os.sep}labels.csv" in table.note
    assert "10 classes, 40 images" in table.note
    assert "1 images that no row lists" in table.note


def test_labels_with_a_list_of_classes(tmp_path: Path) -> None:
    split = {"train": [f"kind {c}" for c in range(6)], "val": ["kind 6", "kind 7"], "test": ["kind 8"]}
    fill_folder(
        tmp_path / "zoo", batches() | {"labels.csv": label_csv(), "split.json": json.dumps(split).encode()}
    )
    found = prepare(tmp_path, "folder", path=tmp_path / "zoo")
    assert names(found) == {split: tuple(classes) for split, classes in split.items()}
    assert (found.images[:, 0, 0, 0] < 180).all()


def test_a_usual_kaggle_download(tmp_path: Path) -> None:
    files = {f"train/{n.split('/')[1]}": data for n, data in batches().items()}
    files |= {f"test/t{i}.png": picture(250 + i) for i in range(3)}
    files |= {"train.csv": label_csv("id,label", "{n},kind {c}"), "test.csv": b"id\nt0\nt1\nt2"}
    files["sample_submission.csv"] = b"id,label\nt0,kind 0\nt1,kind 0\nt2,kind 0"
    fill_folder(tmp_path / "zoo", files)
    table = prepare(tmp_path, "folder", path=tmp_path / "zoo")
    assert (len(table.images), sum(map(len, names(table).values()))) == (40, 10)
    assert "3 images that no row lists" in table.note
    assert "not read: sample_submission.csv, test.csv" in table.note


BY_SPLIT = {f"{SPLIT_OF[int(name[6])]}/{name}": data for name, data in animals(4).items()}
ANIMAL_LABELS = "\n".join(["filename,label", *(f"{name},{name[:7]}" for name in animals(4))]).encode()
CSVS = {
    split: "\n".join(["filename,label", *(f"{n},{n[:7]}" for n in found)]).encode()
    for split, found in FILES.items()
}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            BY_SPLIT | {"labels.csv": ANIMAL_LABELS},
            "labels.csv|folders for train, val and test|more than one way",
        ),
        (
            animals(4) | {f"{s}{v}.csv": CSVS[s] for s in SPLITS for v in ("", "_v2")},
            "more than one way|train.csv|train_v2.csv|keep one of them",
        ),
        (
            animals(4) | {f"{v}/{s}.csv": CSVS[s] + v.encode() for s in SPLITS for v in "ab"},
            "more than one way|a/train.csv|b/train.csv",
        ),
        (
            animals(4) | {f"{s}{v}.txt": b"animal0" for s in SPLITS for v in ("", "2")},
            "more than one way|train2.txt",
        ),
        (animals(4) | {"a.csv": ANIMAL_LABELS, "b.csv": ANIMAL_LABELS}, "more than one way|a.csv|b.csv"),
        (
            animals(4) | {"a.csv": ANIMAL_LABELS, "s.csv": rows_of("filename,label,split")},
            "more than one way|a.csv|s.csv",
        ),
        (
            BY_SPLIT | {"s.csv": rows_of("filename,label,split").replace(b"test", b"val", 1)},
            "more than one way|s.csv",
        ),
        (
            {
                f"{'test' if n[6] in '23' else 'train'}_images/{n.replace('/', '')}": d
                for n, d in animals(4).items()
            }
            | {"labels.csv": ANIMAL_LABELS.replace(b"/", b"", 1).replace(b"/", b"")},
            "labels.csv|test_images, train_images|look like splits",
        ),
        (
            animals(4) | {"a.csv": ANIMAL_LABELS, "novel_classes.txt": b"animal0"},
            "novel_classes.txt looks like a split",
        ),
        (animals(4) | {"a.csv": b"image,width\nanimal0/1.png,4"}, "a.csv|image, width|label"),
        (animals(4) | {"a.csv": b"image,label,category\nanimal0/1.png,4,5"}, "a.csv|label, category"),
        (animals(4) | {"a.csv": b"photo,label\nanimal0/1.png,4"}, "a.csv|photo, label|filename"),
        (animals(4) | {"a.csv": b"window,activity\nanimal0/1.png,4"}, "a.csv|window, activity|filename"),
        (animals(4) | {"a.csv": b"Our zoo\nimage;label\nanimal0/1.png;4"}, "a.csv|first line|Our zoo"),
        (
            animals(4)
            | {
                f"{s}.csv": CSVS[s] if s == "val" else CSVS[s].replace(b",animal3", b",ANIMAL0")
                for s in SPLITS
            },
            "ANIMAL0|only in case",
        ),
        (animals(4) | {"labels.xlsx": b"PK\x03\x04"}, "labels.xlsx may hold labels|csv"),
        (
            animals(4) | {"a.csv": ANIMAL_LABELS.replace(b"/1.png,a", b"/1.png,A", 1)},
            "Animal0|animal0|only in case",
        ),
        (animals(4) | {"a.csv": b"image,label\nanimal0/1.png,7\nanimal1/1.png,7.0"}, "'7'|'7.0'|differ"),
        (BY_SPLIT | {"lists/novel.json": b'{"label_names": ["animal0"]}'}, "novel.json may be another"),
        (
            animals(4) | {"a.csv": b"image,path,label\nanimal0/1.png,animal0/1.png,4"},
            "a.csv|image, path, label",
        ),
        (animals(4) | {"a.csv": b"animal0/1.png,4\nanimal0/2.jpeg,5"}, "a.csv|no header"),
        (
            animals(4) | {"a.csv": b"image,label,set\nanimal0/1.png,4,train\nanimal1/1.png,4,test"},
            "column set looks like",
        ),
        (animals(4) | {"a.csv": b"image,label,is_train\nanimal0/1.png,4,1"}, "column is_train looks like"),
        (animals(4) | {"a.csv": b"image,label\nanimal0/1.png,big, fat"}, "a.csv|more cells than the header"),
        (animals(4) | {"a.csv": b'image,label\nanimal0/1.png,"big\nanimal0/2.jpeg,small'}, "a.csv is no csv"),
        (animals(4) | {"a.csv": b"image,label\nanimal0/1.png,"}, "a row with an empty label"),
        (
            animals(4) | {"a.csv": b"image,label\nanimal0/9.png,a"},
            "a.csv lists animal0/9.png, which is not there",
        ),
        (animals(4) | {"a.csv": ANIMAL_LABELS + b"\nanimal0/1.png,b"}, "listed under two classes"),
        (
            animals(4) | {"a.csv": "image,label\nanimal0/1.png,Käfer".encode("cp1252")},
            "a.csv is no UTF-8 text",
        ),
        (
            animals(4) | {"a.csv": "image,label\nanimal0/1.png,Kafer".encode("utf-16-le")},
            "a.csv is no UTF-8 text",
        ),
    ],
)
def test_what_can_be_read_in_two_ways_or_none_is_an_error(
    tmp_path: Path, files: dict[str, bytes], said: str
) -> None:
    fill_folder(tmp_path / "zoo", files)
    fails(tmp_path, str(tmp_path / "zoo"), *said.split("|"), name="folder", path=tmp_path / "zoo")


def test_split_folders_in_two_places_are_copies_or_an_error(tmp_path: Path) -> None:
    fill_folder(tmp_path / "zoo", {f"zoo/{name}": data for name, data in BY_SPLIT.items()})
    fill_zip(tmp_path / "zoo" / "zoo.zip", BY_SPLIT)
    assert len(prepare(tmp_path, "folder", path=tmp_path / "zoo").images) == 20
    fill_folder(tmp_path / "pair", {f"v{v}/{name}": data for name, data in BY_SPLIT.items() for v in (1, 2)})
    fill_folder(tmp_path / "pair", {"v2/train/animal0/extra.png": picture(250)})
    with pytest.raises(
        UserError, match=r"more than one way, train classes are in several places, .* others: v1; v2"
    ):
        prepare(tmp_path, "folder", path=tmp_path / "pair")


def test_archives_named_as_splits_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "zoo").mkdir()
    for split, part in (
        ("train", animals(4)),
        ("test", {f"x{name}": data for name, data in animals(7).items()}),
    ):
        fill_zip(tmp_path / "zoo" / f"zoo_{split}.zip", part)
    fails(tmp_path, "zoo_test.zip, zoo_train.zip look like splits", name="folder", path=tmp_path / "zoo")


def test_class_lists_in_one_word_are_read(tmp_path: Path) -> None:
    lists = {
        "trainclasses.txt": b"animal0\nanimal1",
        "testclasses.txt": b"animal2",
        "valclasses.txt": b"animal3",
    }
    fill_folder(tmp_path / "zoo", animals(4) | lists)
    table = prepare(tmp_path, "folder", path=tmp_path / "zoo")
    assert names(table) == {"train": ("animal0", "animal1"), "val": ("animal3",), "test": ("animal2",)}


def test_folders_of_one_name_in_several_places_are_said(tmp_path: Path) -> None:
    fill_folder(tmp_path / "zoo" / "day", animals(3))
    fill_folder(tmp_path / "zoo" / "night", {name: data + b"." for name, data in animals(3).items()})
    note = prepare(tmp_path, "folder", path=tmp_path / "zoo").note
    assert (
        "3 names are in several places and are different classes there, as day/animal0 and night/animal0"
        in note
    )


def test_a_competitions_test_csv_without_labels_is_not_read(tmp_path: Path) -> None:
    test = b"id,width\n" + b"\n".join(f"{n},3".encode() for n in animals(4))
    fill_folder(tmp_path / "zoo", animals(4) | {"train.csv": ANIMAL_LABELS, "test.csv": test})
    assert "not read: test.csv" in prepare(tmp_path, "folder", path=tmp_path / "zoo").note


def test_readings_that_agree_are_one(tmp_path: Path) -> None:
    fill_folder(tmp_path / "zoo", BY_SPLIT | {"all.csv": rows_of("filename,label,split")})
    assert names(prepare(tmp_path, "folder", path=tmp_path / "zoo")) == TOLD


def test_the_note_says_what_the_classes_are_and_which_files_are_not_read(tmp_path: Path) -> None:
    unread = {"readme.txt": b"hello", "animals.csv": b"id,width\nx,y"}
    fill_folder(tmp_path / "zoo", animals() | unread)
    note = prepare(tmp_path, "folder", path=tmp_path / "zoo").note
    assert "classes from the names of folders" in note
    assert "10 classes, 50 images" in note
    assert "not read: animals.csv, readme.txt" in note


class MacEntry(zipfile.ZipInfo):
    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.filename.encode(), self.flag_bits


def test_a_zip_of_another_system(tmp_path: Path) -> None:
    """Backslashes, macOS's own files, and names in UTF-8 that are not marked as such."""
    files = {f"Zoo\\{name}".replace("/", "\\"): data for name, data in animals().items()}
    fill_zip(tmp_path / "windows.zip", files)
    table = prepare(tmp_path, "folder", path=tmp_path / "windows.zip")
    assert sum(map(len, names(table).values())) == 10
    files = {f"Käfer{name}": data for name, data in animals().items()}
    files |= {f"__MACOSX/._{name}": b"x" for name in animals()}
    files["labels.csv"] = "\n".join(
        ["image,label", *(f"Käfer{name},{name[:7]}" for name in animals())]
    ).encode()
    with zipfile.ZipFile(tmp_path / "mac.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(MacEntry(unicodedata.normalize("NFD", name)), data)
    table = prepare(tmp_path, "folder", path=tmp_path / "mac.zip")
    assert sorted(sum(names(table).values(), ())) == [f"animal{c}" for c in range(10)]


# all


def test_seeded_split_is_fixed() -> None:
    names = [f"class{i}" for i in range(100)]
    split = seeded(names)
    assert split == seeded(reversed(names)) != seeded(names, seed=1)
    assert [list(split.values()).count(s) for s in SPLITS] == [64, 16, 20]


def test_wrong_arguments(tmp_path: Path) -> None:
    fails(tmp_path, "imagenet", "omniglot, mini", name="imagenet")
    fails(tmp_path, "channels=2", name="glyphs", channels=2)


def test_download_only_where_something_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def fetch(_url: str, file: Path, _md5: str) -> None:
        fetched.append(file)
        fill_tar(file, birds(200))

    monkeypatch.setattr(images, "fetch", fetch)
    monkeypatch.setattr(cub, "IMAGES", {200: 200, 50: 50})
    load = partial(open_or_prepare, "cub", tmp_path / "raw", tmp_path / "prepared", 8, 3)
    assert len(load().images) == len(load().images) == 200
    assert fetched == [tmp_path / "raw" / "cub" / "CUB_200_2011.tgz"]
