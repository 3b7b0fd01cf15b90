"""The real archives, where FEWSHOT_RAW says they are, and the published splits beside them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewshot.data import cub, mini, omniglot
from fewshot.data.archives import members, opened, read
from fewshot.data.decode import decode
from fewshot.data.images import open_or_prepare
from fewshot.data.listed import by_csv


def test_omniglot(raw: str, prepared: Path) -> None:
    table = open_or_prepare("omniglot", Path(raw), prepared, 28, 1, download=False)
    assert table.images.shape == (1623 * 20, 28, 28, 1)
    published = json.loads((Path(raw) / "omniglot" / "split_vinyals.json").read_text())
    assert {split: list(classes.names) for split, classes in table.splits.items()} == published
    assert all((classes.counts == 20).all() for classes in table.splits.values())
    assert 0.02 < (table.images > 127).mean() < 0.2  # ink is bright, and there is little of it
    first = next(
        m
        for m in members(Path(raw) / "omniglot")
        if m.parts[-4:-1] == tuple(published["train"][0].split("/"))
    )
    with opened(first) as stream:
        image = Image.open(stream).convert("L").resize((28, 28), Image.Resampling.BILINEAR)
    assert np.array_equal(table.images[0, :, :, 0], 255 - np.asarray(image))


def test_vinyals_split_by_rule(raw: str) -> None:
    published = json.loads((Path(raw) / "omniglot" / "split_vinyals.json").read_text())
    for split, characters in published.items():
        assert {omniglot.split_of(*character.split("/")) for character in characters} == {split}


@pytest.mark.parametrize("classes", [200, 50])
def test_closer_look_split_by_rule(raw: str, classes: int) -> None:
    published = json.loads((Path(raw) / "cub50" / f"split_closerlook_{classes}.json").read_text())
    assert sum(map(len, published.values())) == classes
    for key, split in (("base", "train"), ("val", "val"), ("novel", "test")):
        assert {cub.split_of(int(bird[:3])) for bird in published[key]} == {split}


def test_cub50(raw: str, prepared: Path) -> None:
    table = open_or_prepare("cub50", Path(raw), prepared, 84, 3, download=False)
    assert table.images.shape == (2889, 84, 84, 3)
    published = json.loads((Path(raw) / "cub50" / "split_closerlook_50.json").read_text())
    assert [list(table.splits[split].names) for split in ("train", "val", "test")] == list(published.values())


def test_mini_is_complete_and_reads(raw: str) -> None:
    files = members(Path(raw) / "mini")
    splits, missing = by_csv(files)
    assert missing == []
    made = mini.content(files, Path(raw), 84, 3)
    assert {split: len(classes) for split, classes in made.counts.items()} == mini.CLASSES
    assert {count for classes in made.counts.values() for count in classes.values()} == {600}
    some = [next(iter(images.values())) for classes in splits.values() for images in classes.values()]
    pixels = {position: decode(data, 84, 3, str(some[position])) for position, data in read(some)}
    assert len(pixels) == 100
    for position in (0, 50, 99):  # opening an archive for one image takes a while
        with opened(some[position]) as stream:
            assert np.array_equal(pixels[position], np.asarray(Image.open(stream).convert("RGB")))
