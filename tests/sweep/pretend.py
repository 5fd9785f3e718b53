"""Stands for `topokd train` in the tests of the queue: it leaves what training leaves, or fails as it may.

The name of the method says what happens; the words are those of the real command.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def main(words: list[str]) -> int:
    out = Path(words[words.index("--out") + 1])
    seed = int(words[words.index("--seed") + 1])
    method = out.parts[1]
    with Path("started.txt").open("a") as started:
        started.write(f"{out} {os.environ.get('CUDA_VISIBLE_DEVICES', '-')}\n")
    if method == "slow":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        time.sleep(20)
    if method == "deaf":
        time.sleep(20)
    if method == "broken":
        print("some noise", file=sys.stderr)
        print(f"topokd: the loss is nan (kd) in epoch 1 of seed {seed}", file=sys.stderr)
        return 2
    if method == "shot":
        os.kill(os.getpid(), signal.SIGKILL)
    out.mkdir(parents=True, exist_ok=True)
    top1 = {"good": 0.8, "better": 0.9}.get(method, 0.5) + 0.01 * seed
    record = {
        "recipe": {}, "seed": seed, "student": {"name": "resnet8"}, "teacher": None, "commit": "c0ffee",
        "last": {"top1": top1, "epoch": 2}, "best": {"top1": top1 + 0.01, "epoch": 1},
        "wall_time_seconds": 1.0, "curve": [],
    }  # fmt: skip
    (out / "record.json").write_text(json.dumps(record))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
