"""Published weights whose authors named the parameters of the same networks differently."""

import re
from collections.abc import Mapping

from torch import Tensor

from topokd_lib.errors import require_name

__all__ = ["SOURCES", "translate_state"]

SOURCES: dict[str, dict[str, str]] = {
    "graph_kd": {  # cadurosar/graph_kd: its WRN-28-w is our gkd_wrn_28_w
        r"^bn\.": "bn1.",
        r"\.shortcut\.": ".downsample.",
        r"^linear\.": "fc.",
    },
    "igkd": {  # nordlinglab/ModelCompression-IntegratedGradients: the student without the last five blocks
        r"^front_layers\.": "features.",
        r"^middle_layer\.": "features.9.",
        **{rf"^end_layers\.{number}\.": f"features.{number + 10}." for number in range(4)},
    },
    "tgd": {  # jeunsom/TGD: its wrnDDK is our wrn_DD_K
        r"\.nblockLayer\.": ".layer.",
        r"\.batch_norm([12])\.": r".bn\1.",
        r"\.conv_inp\.": ".convShortcut.",
        r"^batch_norm\.": "bn1.",
    },
}
"""For every source, patterns in its parameter names and what they are called here."""


def translate_state(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """A state dictionary with the names of this library; values stay the same objects.

    Args:
        state: As the authors' code saves it.
        source: One of :data:`SOURCES`: ``"graph_kd"``, ``"igkd"`` or ``"tgd"``.

    Raises:
        UnknownName: If there is no such source.

    Example:
        >>> import torch
        >>> list(translate_state({"block1.nblockLayer.0.batch_norm2.bias": torch.zeros(16)}, "tgd"))
        ['block1.layer.0.bn2.bias']
    """
    require_name("source of weights", source, SOURCES)
    translated = {}
    for key, value in state.items():
        name = key
        for pattern, ours in SOURCES[source].items():
            name = re.sub(pattern, ours, name)
        translated[name] = value
    return translated
