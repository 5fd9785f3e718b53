"""The search of DistPro: its gradient, its split, and a search that survives a kill."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from topokd_lib.cli import main
from topokd_lib.data import EpochLoader, load_data
from topokd_lib.errors import CheckpointError, TrainingDiverged
from topokd_lib.models import Teacher, create_model
from topokd_lib.objectives import PathwayProcess, pathway_weights
from topokd_lib.prepare import DistProPlan, hold_out, hypergradient, search_pathways
from topokd_lib.training import save_student

PLAN = DistProPlan(epochs=2, held_out=0.2, every=4, seed=1)


# -------------------------------------------------------------------------------------------- its gradient


def two_problems(seed):
    """A linear network; losses of two "pathways" that want other outputs; other images held out."""
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn(6, 8, 3, generator=generator, dtype=torch.float64)
    theta = nn.Parameter(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    unused = nn.Parameter(torch.randn(3, generator=generator, dtype=torch.float64))
    scores = torch.randn(2, generator=generator, dtype=torch.float64, requires_grad=True)

    def train_loss():
        out = torch.tanh(data[0] @ theta)
        pathways = torch.stack([(out - data[1]).square().mean(), (out + unused - data[2]).square().mean()])
        return (out - data[3]).square().mean() + pathway_weights(scores) @ pathways

    def held_out_loss():
        return (torch.tanh(data[4] @ theta) - data[5]).square().mean()

    return [theta, unused], scores, train_loss, held_out_loss


@pytest.mark.parametrize("momentum", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_hypergradient_is_that_of_the_loss_after_one_step(seed, momentum):
    """Against a central difference of the whole step in every score."""
    parameters, scores, train_loss, held_out_loss = two_problems(seed)
    last = [0.1 * torch.ones_like(p) for p in parameters] if momentum else None
    before = [p.detach().clone() for p in parameters]
    found = hypergradient(
        train_loss, held_out_loss, parameters, scores, lr=0.3, momentum=last, weight_decay=0.01, step=1e-4
    )
    assert all(torch.equal(p, old) for p, old in zip(parameters, before, strict=True))

    def after_one_step(changed):
        with torch.no_grad():
            scores.copy_(changed)
        gradients = torch.autograd.grad(train_loss(), parameters)
        with torch.no_grad():
            for k, (p, gradient) in enumerate(zip(parameters, gradients, strict=True)):
                p.sub_(0.3 * (gradient + 0.01 * p + (last[k] if last else 0)))
            loss = held_out_loss()
            for p, old in zip(parameters, before, strict=True):
                p.copy_(old)
        return loss

    start = scores.detach().clone()
    for k in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[k] = 1e-5
        expected = (after_one_step(start + step) - after_one_step(start - step)) / 2e-5
        torch.testing.assert_close(found[k], expected, rtol=1e-4, atol=1e-8)


def test_scores_stay_where_nothing_can_be_learned():
    parameters, scores, train_loss, _ = two_problems(0)
    found = hypergradient(train_loss, lambda: 0 * parameters[0].sum(), parameters, scores, lr=0.1)
    assert found.tolist() == [0, 0]


# ----------------------------------------------------------------------------------------------- the search


@pytest.fixture(scope="module")
def digits():
    data = load_data("digits", size=8)
    return replace(data, train_images=data.train_images[:640], train_labels=data.train_labels[:640])


def networks():
    torch.manual_seed(0)
    teacher = Teacher(create_model("resnet14", num_classes=10))
    return create_model("resnet8", num_classes=10), teacher


def search(digits, plan=PLAN, nets=None, **options):
    loaders = [
        EpochLoader(part, batch_size=64, augment="crop", seed=plan.seed)
        for part in hold_out(digits, plan.held_out, plan.seed)
    ]
    return search_pathways(*(nets or networks()), *loaders, plan, **options)


def test_both_parts_of_a_split_are_disjoint_and_complete(digits):
    rest, held_out = hold_out(digits, 0.2, seed=3)
    assert (len(rest.train_labels), len(held_out.train_labels)) == (512, 128)
    images = torch.cat([rest.train_images, held_out.train_images]).flatten(1)
    assert torch.equal(
        images.unique(dim=0, return_counts=True)[1],
        digits.train_images.flatten(1).unique(dim=0, return_counts=True)[1],
    )
    assert torch.equal(hold_out(digits, 0.2, seed=3)[1].train_labels, held_out.train_labels)
    assert not torch.equal(hold_out(digits, 0.2, seed=4)[1].train_labels, held_out.train_labels)
    with pytest.raises(ValueError, match="0% of 640 training images leave one of two sets empty"):
        hold_out(digits, 1e-5, seed=0)


def test_search_records_scores_that_move_and_nothing_of_the_teacher_changes(digits):
    student, teacher = networks()
    before, told = teacher.fingerprint(), []
    found = search(digits, nets=(student, teacher), progress=lambda *where: told.append(where))
    assert teacher.fingerprint() == before
    assert found.scores.shape == (1 + 2 * 2, 6)  # eight steps an epoch, an update every four
    assert torch.equal(found.scores[0], torch.ones(6))
    assert all((a != b).all() for a, b in zip(found.scores, found.scores[1:], strict=False))
    assert (found.student, found.teacher) == ("resnet8", "resnet14")
    assert told == [("search", done, 16) for done in range(1, 17)]
    assert found.report["plan"]["epochs"] == 2


def test_search_that_was_killed_goes_on_to_the_same_result(digits, tmp_path):
    state = tmp_path / "process.search"
    whole = search(digits)

    def kill(stage, done, total):
        if done == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(digits, state=state, progress=kill)
    assert state.exists()
    steps = []
    resumed = search(digits, state=state, progress=lambda *where: steps.append(where[1]))
    assert steps[0] == 9  # the first epoch was kept
    assert torch.equal(resumed.scores, whole.scores)
    assert list(tmp_path.iterdir()) == []


def test_state_of_another_search_is_refused(digits, tmp_path):
    state = tmp_path / "process.search"

    def kill(stage, done, total):
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(digits, state=state, progress=kill)
    with pytest.raises(CheckpointError, match="holds the beginning of another search"):
        search(digits, replace(PLAN, lr=0.01), state=state)
    state.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="cannot read"):
        search(digits, state=state)


def test_search_that_diverges_says_so(digits):
    with pytest.raises(TrainingDiverged, match=r"the search became .* in epoch 1; lower lr \(1e\+20\)"):
        search(digits, replace(PLAN, lr=1e20))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "got epochs=0 and every=20"),
        ({"every": 0}, "got epochs=40 and every=0"),
        ({"held_out": 1.0}, r"held_out is a fraction between 0 and 1, got 1\.0"),
        ({"lr": 0.0}, "lr, score_lr and weight must be positive"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\)"),
    ],
)
def test_plans_that_cannot_be_carried_out(change, message):
    with pytest.raises(ValueError, match=message):
        DistProPlan(**change)


def test_command_searches_and_the_recipe_replays(tmp_path, monkeypatch, capsys):
    """The whole way on the digits: teacher, search, student."""
    monkeypatch.chdir(tmp_path)
    data = load_data("digits", size=8)
    path = tmp_path / "teacher.safetensors"
    torch.manual_seed(0)
    save_student(
        path, create_model("resnet20", num_classes=10), normalisation=data.normalisation, data="digits"
    )
    options = ["--teacher.weights", str(path)]
    plan = ["--plan.epochs", "1", "--plan.every", "8"]
    assert main(["prepare", "dist-pro", "--config", "digits/dist_pro_search", *options, *plan]) == 0
    made = "artefacts/digits/dist-pro-resnet20-resnet8.safetensors"
    said = capsys.readouterr().out
    assert said.startswith(f"{made}: 6 pathways from resnet20 to resnet8, ")
    assert "their weights sum to 5.14 at first and " in said
    process = PathwayProcess.load(made)
    assert f"{len(process.scores)} records" in said
    assert main(["train", "--config", "digits/dist_pro", *options, "--schedule.epochs", "1"]) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert (
        main(["prepare", "dist-pro", "--config", "digits/dist_pro_search", *options, "--engine.devices", "2"])
        == 2
    )
    assert "a search runs on one device, engine asks for 2" in capsys.readouterr().err
    assert (
        main(["prepare", "dist-pro", "--config", "digits/dist_pro_search", *options, "--plan.held_out", "2"])
        == 2
    )
    assert "held_out is a fraction between 0 and 1, got 2.0" in capsys.readouterr().err
