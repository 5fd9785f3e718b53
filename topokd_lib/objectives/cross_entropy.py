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

    Raises:
        ValueError: If ``label_smoothing`` is outside [0, 1).
    """

    def __init__(self, pair: Pair, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing is a probability below 1, got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        return F.cross_entropy(student.logits, batch.labels, label_smoothing=self.label_smoothing)
