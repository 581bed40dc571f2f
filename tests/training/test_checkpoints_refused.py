"""What a run does not go on from, by name; what a folder and settings cannot be."""

import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.training import Checkpoints, Preempted
from jaxprune.training.checkpoints._fingerprint import describe_function
from tests.training import problem
from tests.training.checkpointed import STEPS, after, imp, loud_when_collected

pytestmark = loud_when_collected


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_there_must_be_something_to_resume(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no checkpoint in .*to resume from"):
        imp(Checkpoints(tmp_path / folder, resume=True))
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sparsity": 0.9}, r"other settings \(sparsities: .*0\.8\] there, .*0\.9\] now\)"),
        ({"retraining_steps": 11}, r"retraining_steps: \[10, 10\] there, \[11, 11\] now"),
        ({"pretraining": optax.linear_schedule(0.2, 0.0, STEPS)}, "pretraining rates: '24 numbers"),
        ({"optimizer_state": "keep"}, "optimizer_state: 'fresh_once' there, 'keep' now"),
        ({"pretrain": False}, "pretrain: True there, False now"),
        ({"allocation": jp.masks.erk()}, "allocation: None there, .*erk"),
        ({"scores": lambda params: jp.scores.magnitude(params)}, "scores: .*<lambda>' now"),
    ],
)
def test_a_changed_setting_is_refused_by_name(stopped, change, message):
    with pytest.raises(ValueError, match=message):
        imp(Checkpoints(stopped, every=5, resume=True), **change)


def test_your_own_settings_are_compared_too(tmp_path):
    with pytest.raises(Preempted):
        imp(Checkpoints(tmp_path, stop=after(1), settings={"data": "digits", "batch": (3, 4)}))
    changed = Checkpoints(tmp_path, resume=True, settings={"data": "mnist", "batch": (3, 4)})
    with pytest.raises(ValueError, match="data: 'digits' there, 'mnist' now"):
        imp(changed)


def test_another_model_is_refused_by_the_path_that_differs(stopped):
    params = problem.params()
    params["first"]["kernel"] = jnp.pad(params["first"]["kernel"], ((0, 0), (0, 1)))
    params["first"]["bias"] = jnp.zeros(17)
    params["last"]["kernel"] = jnp.pad(params["last"]["kernel"], ((0, 1), (0, 0)))
    other = jp.training.TrainState.create(params, problem.sgd, key=jax.random.key(1))
    message = r"of another model \(parameter first/bias: 'float32\[16\]' there, 'float32\[17\]' now"
    with pytest.raises(ValueError, match=message):
        imp(Checkpoints(stopped, every=5, resume=True), state=other)


def test_another_state_to_rewind_to_is_refused(tmp_path):
    snapshot = problem.state()
    options = {"rewind": snapshot, "schedule": "lrw"}
    with pytest.raises(Preempted):
        imp(Checkpoints(tmp_path, every=5, stop=after(0)), **options)
    options["rewind"] = snapshot._replace(params=jax.tree.map(lambda x: x + 1, snapshot.params))
    with pytest.raises(ValueError, match=r"rewind: 'a state, sha256 \w+' there, 'a state, sha256"):
        imp(Checkpoints(tmp_path, every=5, resume=True), **options)


def test_arguments_of_a_method_are_compared(tmp_path):
    def go(sparsity, **options):
        method = jp.methods.gmp(sparsity, total_steps=30, interval=3)
        parts = jp.training.prepare(
            method, problem.params(), problem.loss_fn, problem.sgd, key=jax.random.key(1)
        )
        step = jp.training.make_train_step(parts.loss_fn, parts.make_optimizer)
        train = jp.training.make_loop(step, problem.batch_at, chunk_steps=4)
        return jp.training.fit(
            parts,
            train,
            evaluate=problem.evaluate,
            learning_rates=np.full(30, 0.05),
            checkpoints=Checkpoints(tmp_path, **options),
        )

    with pytest.raises(Preempted):
        go(0.9, stop=after(0))
    with pytest.raises(ValueError, match=r"sparsity: 0\.9 there, 0\.5 now"):
        go(0.5, resume=True)


def test_descriptions_see_what_functions_hold():
    erk = jp.masks.erk
    assert describe_function(erk()) == describe_function(erk())
    assert describe_function(erk()) != describe_function(erk(max_sparsity={"a": 0.8}))
    draws = [partial(jp.scores.random, jax.random.key(i)) for i in (0, 1, 0)]
    first, second, again = map(describe_function, draws)
    assert first == again != second
    assert describe_function(None) is None


@pytest.mark.parametrize("value", [pathlib.Path("data"), float("nan"), {"rate": jnp.ones(2)}])
def test_settings_that_no_file_can_hold(tmp_path, value):
    with pytest.raises(TypeError, match=r"finite numbers and words.*'where' is "):
        Checkpoints(tmp_path, settings={"fine": [1, "a"], "where": value})


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"the folder for checkpoints .* cannot be written"):
        imp(Checkpoints(tmp_path / "file"))


def test_folders_of_buckets_are_refused():
    with pytest.raises(ValueError, match="Mount the bucket"):
        Checkpoints("gs://bucket/run")


def test_options_out_of_range(tmp_path):
    for name in ("every", "keep"):
        with pytest.raises(ValueError, match=f"{name} is 0, but must be at least 1"):
            Checkpoints(tmp_path, **{name: 0})
    with pytest.raises(ValueError, match="on_nan is 'stop' or 'rewind'; got 'skip'"):
        Checkpoints(tmp_path, on_nan="skip")
    with pytest.raises(
        TypeError, match=r"checkpoints is a .*Checkpoints\(folder, \.\.\.\); got 'here'"
    ):
        imp("here")
