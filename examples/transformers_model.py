"""A Hugging Face transformers model, unmodified: GPT-2 in a small size learns to count.

    python examples/transformers_model.py

No loss function is given, so the model gets the whole batch, labels too, and its own loss is used. Takes
seconds; leaves a run folder in runs/counting.
"""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import openwafer as ow

NUMBERS, LENGTH = 64, 16

torch.manual_seed(0)
model = GPT2LMHeadModel(
    GPT2Config(
        n_layer=2, n_embd=64, n_head=2, vocab_size=NUMBERS, n_positions=LENGTH, bos_token_id=0, eos_token_id=0
    )
)

# Any iterable of batches will do. Dict batches are passed by name, as transformers expects them.
starts = torch.randint(0, NUMBERS, (32, 8, 1), generator=torch.Generator().manual_seed(0))
batches = [{"input_ids": ids, "labels": ids} for ids in (starts + torch.arange(LENGTH)) % NUMBERS]

trainer = ow.Trainer(
    model,
    optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3),  # read for its settings; it never steps
    cluster=ow.LocalCluster(),
    name="counting",
)
result = trainer.fit(batches, steps=120, overwrite=True)

count = model.eval().generate(torch.tensor([[7, 8, 9]]), max_new_tokens=8, do_sample=False, pad_token_id=0)
print("7, 8, 9 goes on as", count[0, 3:].tolist())
print(f"loss {result.losses[0]:.3f} -> {result.losses[-1]:.3f}; checkpoint {result.checkpoint}")
