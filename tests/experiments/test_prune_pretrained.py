"""Pretrained networks: folders of Hugging Face read, run, pruned, repaired and written back."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxprune as jp
from experiments import prune
from experiments.pretrained import huggingface
from experiments.pruning import batches, job, options
from experiments.pruning.options import Settings

tokenizers = pytest.importorskip("tokenizers")
WIDTH, HEADS, GROUPS, DEPTH, HIDDEN, VOCABULARY = 16, 4, 2, 2, 24, 260
TEXT = "In the beginning was the word, and the word was with us.\n" * 400


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A tiny Llama of random weights, as Hugging Face has it, and a text."""
    folder = tmp_path_factory.mktemp("llama")
    drawn = np.random.default_rng(0)

    def matrix(out, into):
        return (drawn.normal(size=(out, into)) / np.sqrt(into)).astype(np.float32)

    tensors = {
        "model.embed_tokens.weight": matrix(VOCABULARY, WIDTH),
        "model.norm.weight": 1 + 0.1 * drawn.normal(size=WIDTH).astype(np.float32),
        "lm_head.weight": matrix(VOCABULARY, WIDTH),
    }
    head = WIDTH // HEADS
    for k in range(DEPTH):
        at = f"model.layers.{k}"
        tensors |= {
            f"{at}.self_attn.q_proj.weight": matrix(WIDTH, WIDTH),
            f"{at}.self_attn.k_proj.weight": matrix(GROUPS * head, WIDTH),
            f"{at}.self_attn.v_proj.weight": matrix(GROUPS * head, WIDTH),
            f"{at}.self_attn.o_proj.weight": matrix(WIDTH, WIDTH),
            f"{at}.mlp.gate_proj.weight": matrix(HIDDEN, WIDTH),
            f"{at}.mlp.up_proj.weight": matrix(HIDDEN, WIDTH),
            f"{at}.mlp.down_proj.weight": matrix(WIDTH, HIDDEN),
            f"{at}.input_layernorm.weight": np.ones(WIDTH, np.float32),
            f"{at}.post_attention_layernorm.weight": np.ones(WIDTH, np.float32),
        }
    save_file(tensors, folder / "model.safetensors")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "num_key_value_heads": GROUPS,
        "intermediate_size": HIDDEN,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=256, initial_alphabet=letters)
    made.train_from_iterator([TEXT[:60]], trainer)
    made.save(str(folder / "tokenizer.json"))
    (folder / "text.txt").write_text(TEXT)
    return folder


def by_hand(t, tokens):
    """Llama in NumPy, written out."""

    def norm(x, scale):
        return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6) * scale

    def turned(x):  # [length, heads, head]
        half = x.shape[-1] // 2
        angles = np.arange(len(x))[:, None] / 10000 ** (np.arange(half) / half)
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    x = t["model.embed_tokens.weight"][tokens]
    n, head = len(tokens), WIDTH // HEADS
    for k in range(DEPTH):
        at = f"model.layers.{k}"
        y = norm(x, t[f"{at}.input_layernorm.weight"])
        q, key, v = (y @ t[f"{at}.self_attn.{p}_proj.weight"].T for p in "qkv")
        q = turned(q.reshape(n, HEADS, head))
        key = turned(key.reshape(n, GROUPS, head)).repeat(HEADS // GROUPS, 1)
        v = v.reshape(n, GROUPS, head).repeat(HEADS // GROUPS, 1)
        scores = np.einsum("thd,shd->hts", q, key) / np.sqrt(head)
        scores = np.where(np.tril(np.ones((n, n), bool)), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = np.einsum("hts,shd->thd", weights, v).reshape(n, -1)
        x = x + mixed @ t[f"{at}.self_attn.o_proj.weight"].T
        y = norm(x, t[f"{at}.post_attention_layernorm.weight"])
        gate = y @ t[f"{at}.mlp.gate_proj.weight"].T
        up = y @ t[f"{at}.mlp.up_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ t[f"{at}.mlp.down_proj.weight"].T
    return norm(x, t["model.norm.weight"]) @ t["lm_head.weight"].T


def test_the_forward_pass_is_that_of_the_architecture(llama, jax_defaults):
    network = huggingface.load(llama)
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, 9)
    found = network.apply(network.params, jnp.asarray(tokens[None], jnp.int32))
    expected = by_hand(load_file(llama / "model.safetensors"), tokens)
    np.testing.assert_allclose(found[0], expected, atol=2e-5)


def test_tensors_go_back_by_their_names(llama):
    network = huggingface.load(llama)
    before = load_file(llama / "model.safetensors")
    after = network.to_torch(network.params)
    assert before.keys() == after.keys()
    for name, x in before.items():
        np.testing.assert_array_equal(x, after[name])


def settings(llama, folder, **options):
    return Settings(
        model=str(llama),
        data=str(llama / "text.txt"),
        calibration=16,
        length=16,
        examples=8,
        steps=4,
        batch_size=8,
        rank=2,
        out=folder,
        compilation_cache="off",
        **options,
    )


@pytest.mark.parametrize(
    ("method", "sparsity", "retrain"),
    [
        ("wanda", "0.5", "refit"),
        ("sparsegpt", "2:4", "none"),
        pytest.param("magnitude", "0.5", "perp", marks=pytest.mark.slow),
        pytest.param("alps", "0.5", "reconstruct", marks=pytest.mark.slow),
        pytest.param("swaps", "0.5", "full", marks=pytest.mark.slow),
        pytest.param("stade", "4:8", "distill", marks=pytest.mark.slow),
        pytest.param("magnitude", "2:4", "biases", marks=pytest.mark.slow),
    ],
)
def test_a_folder_is_pruned_repaired_and_saved(
    llama, tmp_path, jax_defaults, method, sparsity, retrain
):
    rows = job.run(settings(llama, tmp_path, method=method, sparsity=sparsity, retrain=retrain))
    assert rows[0]["step"] == "dense"
    assert rows[0]["output_error"] == 0 < rows[-1]["output_error"]
    params, mask = jp.load(tmp_path / "pruned.safetensors")
    jp.assert_sparse(params, mask)
    share = options.target(sparsity).fraction
    for m in jax.tree.leaves(mask["layers"]):
        for layer in m:
            assert int((~layer).sum()) == round(share * layer.size)
    written = load_file(tmp_path / "model.safetensors")
    up = written["model.layers.1.mlp.up_proj.weight"]
    np.testing.assert_array_equal(up.T, params["layers"]["mlp"]["up"]["kernel"][1])
    kept = json.loads((tmp_path / "result.json").read_text())
    assert kept["calibration_data"]["examples"] == 16
    assert kept["settings"]["seed"] == 0
    assert jp.read_settings(tmp_path / "pruned.safetensors")["calibration_data"]["length"] == 16


def test_calibration_batches_are_of_one_size_and_hold_all():
    for n, most in ((128, 64), (100, 64), (7, 4), (5, 64)):
        pieces = batches.pieces(np.arange(n), most)
        assert len({len(p) for p in pieces}) == 1
        assert len(pieces[0]) <= most
        np.testing.assert_array_equal(np.concatenate(pieces), np.arange(n))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "nothing"], "neither a folder nor one of minilm, mobilenet, g2p, gpt"),
        (["--method", "wandaa"], "wandaa"),
        (["--sparsity", "1.5"], "fraction removed, in (0, 1), or N:M"),
        (["--sparsity", "4:2"], "N < M"),
        (["--retrain", "lora"], "lora"),
        (["--calibration", "0"], "calibration is at least 1"),
        (["--learning-rate", "nan"], "learning_rate is a positive number"),
        (["--model", "g2p", "--data", "x"], "has data of its own"),
        (["--model", "minilm", "--retrain", "distill"], "--retrain full follows the dense"),
    ],
)
def test_bad_options(words, said, capsys):
    assert prune.main(words) == 2
    assert said.replace(" ", "") in capsys.readouterr().out.replace("\n", "").replace(" ", "")


def test_bad_options_are_refused_before_jax_is_imported():
    code = (
        "import sys; from experiments import prune; "
        "assert prune.main(['--sparsity', '2']) == 2; assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
