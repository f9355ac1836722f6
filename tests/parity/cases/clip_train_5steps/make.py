"""Makes this case again with open_clip (see ../write.py)."""

import math
import sys
from pathlib import Path

import torch
from open_clip.loss import ClipLoss
from open_clip.model import CLIP

sys.path.insert(0, str(Path(__file__).parents[1]))
from write import case, fill, normal

TRAIN = {
    "lr": 0.002,
    "betas": [0.9, 0.98],
    "eps": 1e-06,
    "weight_decay": 0.2,
    "no_decay": "ndim<2 or name contains bn|ln|bias|logit_scale",
    "warmup": 2,
    "steps": 5,
    "grad_clip_norm": 1.0,
    "logit_scale_max": "ln(100)",
}
CONFIG = {
    "embed_dim": 16,
    "quick_gelu": False,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}


def rate(step):
    """The schedule of open_clip_train.scheduler.cosine_lr."""
    if step < TRAIN["warmup"]:
        return TRAIN["lr"] * (step + 1) / TRAIN["warmup"]
    past, whole = step - TRAIN["warmup"], TRAIN["steps"] - TRAIN["warmup"]
    return 0.5 * (1 + math.cos(math.pi * past / whole)) * TRAIN["lr"]


def main():
    model = fill(CLIP(**CONFIG), 61).train()
    with torch.no_grad():
        # Near its limit, so that the clamp matters.
        model.logit_scale.fill_(4.604)
    first = {k: v.clone() for k, v in model.state_dict().items()}
    # The groups of open_clip_train.main.
    exclude = lambda n, p: p.ndim < 2 or any(part in n for part in ("bn", "ln", "bias", "logit_scale"))
    named = list(model.named_parameters())
    groups = [
        {"params": [p for n, p in named if exclude(n, p)], "weight_decay": 0.0},
        {"params": [p for n, p in named if not exclude(n, p)], "weight_decay": TRAIN["weight_decay"]},
    ]
    optimizer = torch.optim.AdamW(groups, lr=TRAIN["lr"], betas=TRAIN["betas"], eps=TRAIN["eps"])
    image = normal([TRAIN["steps"], 8, 3, 16, 16], 9).half()
    text = torch.randint(1, 60, [TRAIN["steps"], 8, 12], generator=torch.Generator().manual_seed(10))
    text[:, :, 8] = 63
    text[:, :, 9:] = 0
    outputs, losses, norms, scales, rates = {}, [], [], [], []
    for step in range(TRAIN["steps"]):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.zero_grad()
        loss = ClipLoss()(*model(image[step].float(), text[step]))
        loss.backward()
        if step == 0:
            outputs |= {f"grad0.{n}": p.grad.clone() for n, p in named}
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), TRAIN["grad_clip_norm"]))
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        losses.append(loss.detach())
        scales.append(model.logit_scale.detach().clone())
        rates.append(torch.tensor(rate(step)))
    outputs |= {f"after5.{n}": p for n, p in named}
    outputs |= {"losses": torch.stack(losses), "grad_norms": torch.stack(norms), "lrs": torch.stack(rates),
                "logit_scale_after": torch.stack(scales)}
    case(
        Path(__file__).parent,
        "open_clip CLIP + ClipLoss + torch.optim.AdamW",
        CONFIG | {"train": TRAIN},
        {"image": image, "text": text},
        outputs,
        first,
        notes="open_clip_torch 3.3.0; the schema's case at 16 px; pictures are stored as F16",
        tolerance={"after5.*": [0.0002, 0.002], "loss*": [0, 0.001], "grad_norm*": [0, 0.001]},
    )


if __name__ == "__main__":
    main()
