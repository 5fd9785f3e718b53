"""``topokd data …``: what data sets there are, whether they are whole, and how to get them."""

from contextlib import closing

from topokd_lib.cli.parser import Stages, new_parser
from topokd_lib.data import DATA, ImageData, StreamedImages, find_damaged, load_data, write_shards
from topokd_lib.data.cifar import data_root
from topokd_lib.errors import DataError, RecipeError, require_name

__all__ = ["check", "download", "names", "shard"]

HOMES = {
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "cinic10": "cinic-10",
    "imagenet": "imagenet",
}
"""Folders in the data root by data set."""


def names(words: list[str]) -> None:
    """List data sets and say which are there."""
    new_parser("data list", "").parse_args(words)
    print(f"data sets, in {data_root().absolute()} unless a recipe says otherwise:")
    width = max(map(len, DATA))
    for name, load in DATA.items():
        does = (load.__doc__ or "").partition("\n")[0].replace("``", "")  # mark-up is for the web pages
        state = (
            "" if name not in HOMES else " [here]" if (data_root() / HOMES[name]).is_dir() else " [not here]"
        )
        print(f"  {name:<{width}}  {does}{state}")


def check(words: list[str]) -> None:
    """Read a data set wholly and say what it is."""
    parser = new_parser("data check", "NAME [--root FOLDER] [--workers N]")
    parser.add_argument("name", help="as `topokd data list` has it")
    parser.add_argument("--root", help="where it lies, if not at the usual place")
    parser.add_argument("--workers", type=int, default=4, help="processes that decode")
    options = parser.parse_args(words)
    data = _load(options.name, options.root)
    if isinstance(data, StreamedImages):
        with closing(Stages()) as stages:
            found = [
                damage
                for part in (data.train, data.test)
                for _, damage in find_damaged(part, workers=options.workers, progress=stages.show)
            ]
        for damage in found:
            print(damage)
        if found:
            raise DataError(
                f"{len(found)} of {len(data.train) + len(data.test):,} images of {options.name} cannot be "
                f"read; copy them again, or leave them out: data.options.damaged=skip"
            )
    channels, height, width = data.image_shape
    print(
        f"{data.name} is whole: {len(data.train_labels):,} training and {len(data.test_labels):,} test "
        f"images, {data.num_classes} classes, {channels}×{height}×{width}, fingerprint {data.fingerprint()}"
    )


def download(words: list[str]) -> None:
    """Fetch a data set, unless it is there."""
    parser = new_parser("data download", "NAME [--root FOLDER]")
    parser.add_argument("name", help="cifar10 or cifar100")
    parser.add_argument("--root", help="where it goes, if not to the usual place")
    options = parser.parse_args(words)
    if options.name in ("cinic10", "imagenet"):
        _load(options.name, options.root)  # says where it is to be had, if it is not there
        print(f"{options.name} is there")
        return
    require_name("data set to download", options.name, ("cifar10", "cifar100"))
    data = load_data(options.name, root=options.root, download=True)
    print(f"{data.name}: {len(data.train_labels):,} training and {len(data.test_labels):,} test images")


def shard(words: list[str]) -> None:
    """Pack a data set that is read from disk into tar files."""
    parser = new_parser("data shard", "NAME --out FOLDER [--root FOLDER] [--images_per_shard N]")
    parser.add_argument("name", help="imagenet, or another data set that is read from disk")
    parser.add_argument("--out", required=True, help="where the shards are written")
    parser.add_argument("--root", help="where it lies, if not at the usual place")
    parser.add_argument("--images_per_shard", type=int, default=2000, help="images in one file")
    options = parser.parse_args(words)
    data = _load(options.name, options.root)
    if not isinstance(data, StreamedImages):
        raise RecipeError(f"{options.name} lies in memory; shards are for data sets that are read from disk")
    try:
        with closing(Stages()) as stages:
            files = write_shards(
                data, options.out, images_per_shard=options.images_per_shard, progress=stages.show
            )
    except (ImportError, ValueError) as error:
        raise RecipeError(str(error)) from error
    print(
        f"{options.out}: {len(files)} shards of {data.name}; use them with --data.name shards "
        f"--data.options.root {options.out}"
    )


def _load(name: str, root: str | None) -> ImageData | StreamedImages:
    try:
        return load_data(name, **({} if root is None else {"root": root}))
    except (TypeError, ValueError) as error:
        raise RecipeError(str(error)) from error
