"""A small BERT: token, position and segment embeddings, an attention mask, masked tokens and next sentence, LAMB."""

from __future__ import annotations

import math

import cerebras.pytorch as cstorch
import common
import torch
from torch import nn
from torch.nn import functional as F

VOCABULARY = 256
LENGTH = 32
HEADS = 4
MASKED = 5


class Layer(nn.Module):
    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.q = nn.Linear(hidden, hidden)
        self.k = nn.Linear(hidden, hidden)
        self.v = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, hidden)
        self.ln1 = nn.LayerNorm(hidden)
        self.up = nn.Linear(hidden, 4 * hidden)
        self.down = nn.Linear(4 * hidden, hidden)
        self.ln2 = nn.LayerNorm(hidden)
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BLD: torch.Tensor, mask_B11L: torch.Tensor) -> torch.Tensor:
        batch, length, hidden = x_BLD.shape
        q_BHLK, k_BHLK, v_BHLK = (
            part(x_BLD).reshape(batch, length, HEADS, hidden // HEADS).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        scores_BHLL = torch.matmul(q_BHLK, k_BHLK.transpose(-1, -2)) / math.sqrt(hidden // HEADS)
        weights_BHLL = self.drop(torch.softmax(scores_BHLL + mask_B11L, dim=-1))
        y_BLD = torch.matmul(weights_BHLL, v_BHLK).transpose(1, 2).reshape(batch, length, hidden)
        x_BLD = self.ln1(x_BLD + self.drop(self.out(y_BLD)))
        return self.ln2(x_BLD + self.drop(self.down(F.gelu(self.up(x_BLD)))))


class Bert(nn.Module):
    def __init__(self, layers: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(VOCABULARY, hidden, padding_idx=0)
        self.position_embedding = nn.Embedding(LENGTH, hidden)
        self.segment_embedding = nn.Embedding(2, hidden)
        self.ln = nn.LayerNorm(hidden)
        self.layers = nn.ModuleList(Layer(hidden, dropout) for _ in range(layers))
        self.pooler = nn.Linear(hidden, hidden)
        self.next_sentence = nn.Linear(hidden, 2)
        self.transform = nn.Linear(hidden, hidden)
        self.transform_ln = nn.LayerNorm(hidden)
        self.decoder = nn.Linear(hidden, VOCABULARY)

    def forward(
        self,
        tokens_BL: torch.Tensor,
        segments_BL: torch.Tensor,
        mask_BL: torch.Tensor,
        places_BM: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        places_L = torch.arange(tokens_BL.shape[1], device=tokens_BL.device)
        x_BLD = self.token_embedding(tokens_BL) + self.position_embedding(places_L)
        x_BLD = self.ln(x_BLD + self.segment_embedding(segments_BL))
        mask_B11L = ((1 - mask_BL[:, None, None, :]) * -10000).to(x_BLD.dtype)
        for layer in self.layers:
            x_BLD = layer(x_BLD, mask_B11L)
        pooled_BD = torch.tanh(self.pooler(x_BLD[:, 0]))
        index_BMD = places_BM[:, :, None].long().expand(-1, -1, x_BLD.shape[-1])
        picked_BMD = torch.gather(x_BLD, 1, index_BMD)
        picked_BMD = self.transform_ln(F.gelu(self.transform(picked_BMD)))
        return self.decoder(picked_BMD), self.next_sentence(pooled_BD)


def loss_of(
    model: nn.Module,
    tokens_BL: torch.Tensor,
    segments_BL: torch.Tensor,
    mask_BL: torch.Tensor,
    places_BM: torch.Tensor,
    labels_BM: torch.Tensor,
    weights_BM: torch.Tensor,
    next_B: torch.Tensor,
) -> torch.Tensor:
    logits_BMV, next_B2 = model(tokens_BL, segments_BL, mask_BL, places_BM)
    losses_BM = F.cross_entropy(
        logits_BMV.reshape(-1, VOCABULARY), labels_BM.reshape(-1).long(), reduction="none"
    )
    masked = (losses_BM * weights_BM.reshape(-1)).sum() / (tokens_BL.shape[0] * MASKED)
    return masked.to(next_B2.dtype) + F.cross_entropy(next_B2, next_B.long())


def batches(size: int, seed: int) -> torch.utils.data.DataLoader:
    """Sequences of counted tokens of several lengths, some tokens hidden; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    count = 512
    lengths_N = torch.randint(20, LENGTH + 1, (count,), generator=generator)
    starts_N = torch.randint(3, VOCABULARY, (count, 1), generator=generator)
    tokens_NL = (starts_N + torch.arange(LENGTH) - 3) % (VOCABULARY - 3) + 3
    mask_NL = (torch.arange(LENGTH) < lengths_N[:, None]).to(torch.int32)
    places_NM = torch.stack([torch.randperm(20, generator=generator)[:MASKED] for _ in range(count)])
    labels_NM = torch.gather(tokens_NL, 1, places_NM)
    weights_NM = (torch.rand(count, MASKED, generator=generator) < 0.8).to(
        cstorch.amp.get_floating_point_dtype()
    )
    hidden_NL = tokens_NL.scatter(1, places_NM, 1) * mask_NL
    segments_NL = (torch.arange(LENGTH) >= lengths_N[:, None] // 2).to(torch.int32)
    next_N = torch.randint(0, 2, (count,), generator=generator)
    whole = [hidden_NL, segments_NL, mask_NL, places_NM, labels_NM, weights_NM, next_N]
    tensors = [part if part.is_floating_point() else part.to(torch.int32) for part in whole]
    dataset = torch.utils.data.TensorDataset(*tensors)
    return common.loader_of(dataset, size)


def main() -> None:
    chosen = common.parse()
    backend = common.open_backend(chosen)
    with backend.device:
        model = Bert(chosen.layers, chosen.hidden, chosen.dropout)
    common.train(
        chosen,
        backend,
        model,
        lambda model: cstorch.optim.Lamb(model.parameters(), lr=2e-3, weight_decay=0.01),
        lambda optimizer: cstorch.optim.lr_scheduler.LinearLR(optimizer, 2e-3, 2e-4, 100),
        loss_of,
        cstorch.utils.data.DataLoader(batches, chosen.batch, chosen.seed),
        max_gradient_norm=1.0,
    )


if __name__ == "__main__":
    main()
