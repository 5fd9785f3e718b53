"""Cross-entropy with the labels: what a student learns without any teacher.

Explained in:
    book/topology_in_distillation/topkd_digits.ipynb
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from topokd_lib.objectives.base import Objective
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair

__all__ = ["CrossEntropy"]


class CrossEntropy(Objective):
    r"""Mean negative log-probability of the true class.

    .. math:: L = -\frac{1}{B} \sum_b \log \operatorname{softmax}(z_b)_{y_b}

    Args:
        pair: The networks; a teacher is not needed.
        label_smoothing: Probability mass, in [0, 1), that is spread evenly over all classes.
        standardised: If it is given, the logits of every image are first brought to mean 0 and standard
            deviation 1 (the biased one, with 1e-7 added to the variance) and multiplied by this number, as
            the code of NORM does with 2.5. The order of the classes, and so the accuracy, is not affected.

    Raises:
        ValueError: If ``label_smoothing`` is outside [0, 1), or ``standardised`` is not positive.
    """

    def __init__(
        self, pair: Pair, *, label_smoothing: float = 0.0, standardised: float | None = None
    ) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing is a probability below 1, got {label_smoothing}")
        if standardised is not None and not standardised > 0:
            raise ValueError(f"standardised is the new scale of logits and positive, got {standardised}")
        self.label_smoothing = label_smoothing
        self.standardised = standardised

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        logits = student.logits
        if self.standardised is not None:
            logits = self.standardised * F.layer_norm(logits, logits.shape[1:], eps=1e-7)
        return F.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)
