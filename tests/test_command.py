"""The command `jaxprune`, from the checkout."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxprune as jp
from experiments import prune_file
from jaxprune import _command


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["/bin/jaxprune", *words])
    return _command.main()


def test_help_and_wrong_names(monkeypatch, capsys):
    assert call(monkeypatch, "--help") == 0
    said = capsys.readouterr().out
    assert all(name in said for name in _command._COMMANDS)
    assert call(monkeypatch, "train") == 2
    assert "no command 'train'" in capsys.readouterr().err
    assert call(monkeypatch, "bench", "nothing") == 2
    assert "no such benchmark" in capsys.readouterr().err
    assert call(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"jaxprune {jp.__version__}\n"


def test_an_extra_that_is_missing_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tyro", None)
    monkeypatch.delitem(sys.modules, "experiments.report", raising=False)
    assert call(monkeypatch, "report") == 2
    assert "jaxprune report needs tyro: pip install" in capsys.readouterr().err


PARAMS = {"a": {"kernel": jnp.arange(1.0, 9.0).reshape(2, 4), "bias": jnp.ones(4)}}


def test_a_network_of_jaxprune_is_pruned_further(tmp_path, monkeypatch, capsys):
    path = tmp_path / "net.safetensors"
    params, mask = jp.prune(PARAMS, 0.25)
    jp.save(path, params, mask, settings={"seed": 3})
    assert call(monkeypatch, "prune-file", str(path), "--sparsity", "0.5") == 0
    assert "0.5000" in capsys.readouterr().out
    params, mask = jp.load(tmp_path / "net-pruned.safetensors")
    np.testing.assert_array_equal(params["a"]["kernel"], [[0, 0, 0, 0], [5, 6, 7, 8]])
    assert jp.sparsity(mask) == 0.5
    settings = jp.read_settings(tmp_path / "net-pruned.safetensors")
    assert settings == {"seed": 3, "prune": {"sparsity": 0.5, "allocation": "global"}}
    # It says no to less than what is gone.
    assert (
        call(
            monkeypatch, "prune-file", str(tmp_path / "net-pruned.safetensors"), "--sparsity", "0.1"
        )
        == 2
    )


def test_a_network_of_pytorch_keeps_its_names(tmp_path):
    path, out = tmp_path / "model.safetensors", tmp_path / "out.safetensors"
    weight = np.arange(1, 9, dtype=np.float32).reshape(4, 2)
    save_file({"encoder.0.weight": weight, "encoder.0.bias": np.ones(4, np.float32)}, path)
    assert prune_file.main([str(path), "--sparsity", "0.5", "--out", str(out)]) == 0
    written = load_file(out)
    assert set(written) == {"encoder.0.weight", "encoder.0.bias"}
    np.testing.assert_array_equal(written["encoder.0.weight"], np.where(weight > 4, weight, 0))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.safetensors", "--sparsity", "0.5"], "there is no file"),
        (["text.safetensors", "--sparsity", "0.5"], "is no safetensors file"),
        (
            ["text.safetensors", "--sparsity", "0.5", "--allocation", "er"],
            "unknown allocation 'er'",
        ),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.safetensors").write_text("no network at all")
    assert prune_file.main(words) == 2
    assert message in capsys.readouterr().out
