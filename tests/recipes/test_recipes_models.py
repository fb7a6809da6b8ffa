"""The models: what they may see, and what they must equal."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from recipe_cases import build, load


@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_a_decoder_does_not_see_later_tokens(name):
    """Else it would learn to copy the answer. All logits before the changed token stay, later ones move."""
    model = build(name, size="tiny").eval()
    ids_BS = torch.arange(64).reshape(2, 32)
    changed_BS = ids_BS.clone()
    changed_BS[:, 20] = 200

    with torch.no_grad():
        logits_BSV, changed_BSV = model(ids_BS), model(changed_BS)

    assert torch.equal(logits_BSV[:, :20], changed_BSV[:, :20])
    assert (logits_BSV[:, 20:] != changed_BSV[:, 20:]).any(-1).all()


def test_bert_sees_the_whole_text():
    """A masked byte is guessed from both sides."""
    model = build("bert", size="tiny").eval()
    ids_BS = torch.arange(64).reshape(2, 32)
    changed_BS = ids_BS.clone()
    changed_BS[:, 20] = 256

    with torch.no_grad():
        logits_BSV, changed_BSV = model(ids_BS), model(changed_BS)

    assert logits_BSV.shape == (2, 32, 257)
    assert (logits_BSV != changed_BSV).any(-1).all()


def test_berts_head_uses_the_embedding():
    """The two are tied: the embedding's gradient has a part from tokens that no input holds."""
    model = build("bert", size="tiny")
    model(torch.zeros(1, 32, dtype=torch.int64)).logsumexp(-1).sum().backward()

    assert (model.embedding.weight.grad[100] != 0).any()
    assert not any(
        "head" in name and weight.ndim == 2 and len(weight) == 257
        for name, weight in model.named_parameters()
    )


def test_berts_loss_counts_masked_bytes_only():
    """15 of 100 positions have a label; logits elsewhere do not matter."""
    config = load("bert", size="tiny")
    batch = config.train().batch(0)
    labelled = batch["labels"] != -100
    logits_BSV = torch.zeros(*batch["labels"].shape, 257)
    logits_BSV[~labelled] = torch.randn(257)

    assert labelled.sum(dim=1).tolist() == [round(0.15 * 32)] * 4
    assert float(config.loss(logits_BSV, batch)) == pytest.approx(math.log(257))


def test_the_bits_of_gpt_are_its_loss_in_another_unit():
    """Equal guesses among 256 bytes cost 8 bits."""
    config = load("gpt", size="tiny")
    batch = config.train().batch(0)

    bits = config.metrics["bits_per_byte"](torch.zeros(*batch["labels"].shape, 256), batch)

    assert float(bits) == pytest.approx(8.0)


@pytest.mark.parametrize("tied", [False, True])
def test_llama_equals_the_reference_implementation(tied):
    """Rotary positions, grouped queries, norms and the gated MLP: transformers' LlamaForCausalLM, same weights."""
    transformers = pytest.importorskip("transformers")
    import llama  # load("llama") put the recipes on the path

    shape = llama.Shape(
        layers=2, width=48, heads=6, kv_heads=2, hidden=80, vocabulary=97, tied=tied, theta=5e5
    )
    torch.manual_seed(0)
    ours = llama.Llama(shape).eval()
    for weight in ours.parameters():
        torch.nn.init.normal_(weight, std=0.2)  # wide, so that a wrong rotation would show
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=97,
            hidden_size=48,
            intermediate_size=80,
            num_hidden_layers=2,
            num_attention_heads=6,
            num_key_value_heads=2,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 5e5},
            tie_word_embeddings=tied,
            attention_bias=False,
        )
    ).eval()
    missing, unexpected = theirs.load_state_dict(_renamed(ours.state_dict()), strict=False)
    assert missing == (["lm_head.weight"] if tied else [])
    assert not unexpected
    ids_BS = torch.randint(97, (2, 24))

    with torch.no_grad():
        expected_BSV, logits_BSV = theirs(ids_BS).logits, ours(ids_BS)

    assert expected_BSV.std() > 0.1
    torch.testing.assert_close(logits_BSV, expected_BSV, rtol=1e-5, atol=1e-5)


def _renamed(state):
    names = {
        "embedding.": "model.embed_tokens.",
        "blocks.": "model.layers.",
        "attention_norm.": "input_layernorm.",
        "mlp_norm.": "post_attention_layernorm.",
        "attention.q.": "self_attn.q_proj.",
        "attention.k.": "self_attn.k_proj.",
        "attention.v.": "self_attn.v_proj.",
        "attention.out.": "self_attn.o_proj.",
        "mlp.gate.": "mlp.gate_proj.",
        "mlp.up.": "mlp.up_proj.",
        "mlp.down.": "mlp.down_proj.",
        "head.": "lm_head.",
    }
    renamed = {}
    for name, value in state.items():
        name = "model.norm.weight" if name == "norm.weight" else name
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        renamed[name] = value
    return renamed


def test_llamas_loss_over_microbatches_averages_to_the_whole_batch():
    """Also where samples mask different numbers of labels; a mean over all labels would not."""
    config = load("llama", size="tiny")
    torch.manual_seed(0)
    logits_BSV, labels_BS = torch.randn(4, 8, 256), torch.randint(256, (4, 8))
    for sample, masked in enumerate((0, 3, 7, 8)):
        labels_BS[sample, :masked] = -100

    whole = config.loss(logits_BSV, {"labels": labels_BS})
    parts = [config.loss(logits_BSV[i : i + 1], {"labels": labels_BS[i : i + 1]}) for i in range(4)]

    torch.testing.assert_close(torch.stack(parts).mean(), whole)
    assert float(parts[3]) == 0.0
    torch.testing.assert_close(parts[0], F.cross_entropy(logits_BSV[0], labels_BS[0]))


@pytest.mark.parametrize("patch", [1, 2, 4, 8])
def test_vit_takes_any_patch_that_tiles_the_image(patch):
    """One position per patch and one for the class token."""
    model = build("vit", size="tiny", patch=patch)

    assert model.embedding(torch.rand(3, 64)).shape == (3, 1 + (8 // patch) ** 2, 32)
    assert model(torch.rand(3, 64)).shape == (3, 10)


def test_vit_cuts_patches_from_rows_and_columns():
    """With an identity for the projection and no positions, vector n is the pixels of patch n."""
    embedding = build("vit", size="tiny").embedding
    side = 4
    with torch.no_grad():
        embedding.positions.zero_()
        embedding.project.weight.copy_(torch.eye(32, side))
        embedding.project.bias.zero_()
        image = torch.arange(64.0)
        patches_ND = embedding(image[None])[0, 1:]

    assert patches_ND[0, :4].tolist() == [0, 1, 8, 9]
    assert patches_ND[1, :4].tolist() == [2, 3, 10, 11]
    assert patches_ND[4, :4].tolist() == [16, 17, 24, 25]


@pytest.mark.parametrize("name", ["vit", "mnist"])
def test_accuracy_counts_right_answers(name):
    """Three of four."""
    accuracy = load(name).metrics["accuracy"]

    assert float(accuracy(torch.eye(10)[[1, 2, 3, 4]], torch.tensor([1, 2, 3, 9]))) == 0.75
