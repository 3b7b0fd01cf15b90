"""A user's own folder of images: class folders, split folders, lists of labels."""

import pytest

from fewshot.episodes import SPLITS
from tests.made_files import FILLS, check_four, csv_files, fails, fill_folder, names, picture, placed, prepare


def read(tmp_path, files):
    """The table of a user's own folder with these files."""
    fill_folder(tmp_path / "zoo", files)
    return prepare(tmp_path, "folder", path=tmp_path / "zoo")


def animals(number=4):
    forms = ["PNG", "JPEG", "BMP", "GIF", "WEBP"]
    each = [(i, j, form) for i in range(number) for j, form in enumerate(forms, start=1)]
    return {f"animal{i}/{j}.{form.lower()}": picture(i, form=form) for i, j, form in each}


def in_folders(place="{split}/{name}"):
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
    assert [len(of) for of in table.splits.values()] == [6, 2, 2]
    assert names(table)["val"] == ("wild/animal0", "wild/animal8")  # the same for ever
    assert names(table)["test"] == ("wild/animal2", "wild/animal6")
    assert table.rows.shape == (50, 8, 8, 3)
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
    assert [len(of) for of in table.splits.values()] == [6, 1, 3]
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
    assert table.rows[:, 0, 0, 0].tolist() == [20 * c + i for c in kinds for i in range(4)]
    assert "40 of 41 images" in table.note


REFUSED = [
    (in_folders() | {"labels.csv": LABELS}, "labels.csv and folders train, val and test"),
    (animals() | {"a.csv": ALL, "b.csv": LABELS}, "a.csv, b.csv: cannot insert split"),
    (placed("{c}{v}.png") | csv_files() | {"b/train.csv": LABELS}, "b/train.csv"),
    (in_folders("a/{split}/{name}") | in_folders("b/{split}/{name}"), "in and beside folders train"),
    (in_folders() | {"validation/animal9/1.png": picture()}, "in and beside folders train"),
    (in_folders() | {"val/animal0/1.png": picture(9)}, "class animal0 is in 2 splits"),
    (animals(2), "train, val and test each need a class"),
    (animals() | {"a.csv": ALL.replace(b"test", b"dev")}, "and are the only splits"),
    (animals() | {"a.csv": b"filename,label\nanimal0/1.png"}, "a.csv: the columns of a csv"),
    (placed("{c}{v}.png") | csv_files() | {"val.csv": ALL}, "val.csv: cannot insert split"),
    (animals() | {"a.csv": b"filename,label\nanimal0/1.png,a\nanimal0/2.jpeg,big, fat"}, "a.csv: "),
    (animals() | {"a.csv": b"filename,label\nanimal0/9.png,a"}, "a.csv: animal0/9.png|0 images"),
    (animals() | {"a.csv": b"filename,label\n1.png,a"}, "a.csv: 1.png|4 images"),
    (animals() | {"a.csv": LABELS + b"\nanimal0/1.png,b"}, "a.csv: animal0/1.png is listed twice"),
]


@pytest.mark.parametrize(("files", "said"), REFUSED)
def test_a_folder_is_never_guessed_at(tmp_path, files, said):
    fill_folder(tmp_path / "zoo", files)
    fails(tmp_path, *said.split("|"), path=tmp_path / "zoo")


def test_a_folder_missing_empty_or_damaged(tmp_path):
    fails(tmp_path, "nowhere does not exist", path=tmp_path / "nowhere")
    (tmp_path / "zoo").mkdir()
    fails(tmp_path, "each need a class", path=tmp_path / "zoo")
    fill_folder(tmp_path / "zoo", animals(10) | {"animal3/1.png": b"no image"})
    fails(tmp_path, "animal3/1.png is no readable image", path=tmp_path / "zoo")
    FILLS["zip"](tmp_path, animals(10))
    (tmp_path / "some.zip").write_bytes((tmp_path / "some.zip").read_bytes().replace(b"IDAT", b"IDAt"))
    fails(tmp_path, "animal0/1.png is no readable image", "Bad CRC", path=tmp_path / "some.zip")
