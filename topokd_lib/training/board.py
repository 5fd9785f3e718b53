"""The log once more, for those who watch it in TensorBoard."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from topokd_lib.errors import RecipeError
from topokd_lib.training.log import EpochRecord, History

__all__ = ["open_board"]


@contextmanager
def open_board(folder: Path, history: History) -> Iterator[Callable[[EpochRecord], None]]:
    """A function that adds an epoch to the event file in ``folder``.

    Args:
        folder: Created if needed.
        history: What was logged already; whatever an interrupted session showed beyond it is taken back.

    Raises:
        RecipeError: If TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise RecipeError(
            'TensorBoard is not installed: pip install "topokd-lib[tensorboard]", or leave it out'
        ) from error
    with SummaryWriter(str(folder), purge_step=len(history.epochs) + 1) as writer:

        def add(record: EpochRecord) -> None:
            numbers = {"loss": record.loss, "train/top1": record.train_top1, "rate": record.learning_rate}
            numbers |= {f"terms/{name}": value for name, value in record.terms.items()}
            numbers |= {"images_per_second": record.images_per_second}
            if record.test is not None:
                numbers |= {"test/top1": record.test.top1, "test/loss": record.test.loss}
            for name, value in numbers.items():
                writer.add_scalar(f"{record.stage}/{name}", value, record.epoch)
            writer.flush()

        yield add
