"""Makes this case again with open_clip (see ../write.py)."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from open_clip.model import CLIP

sys.path.insert(0, str(Path(__file__).parents[1]))
from write import case, fill, normal

CLASSES, TEMPLATES = 5, 4
CONFIG = {
    "embed_dim": 16,
    "quick_gelu": False,
    "classes": CLASSES,
    "templates": TEMPLATES,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}


def main():
    sizes = {key: CONFIG[key] for key in ("embed_dim", "quick_gelu", "vision_cfg", "text_cfg")}
    model = fill(CLIP(**sizes), 31).eval()
    image = normal([6, 3, 32, 32], 3)
    text = torch.randint(1, 60, [CLASSES, TEMPLATES, 12], generator=torch.Generator().manual_seed(4))
    text[:, :, 9] = 63
    text[:, :, 10:] = 0
    target = torch.tensor([0, 3, 1, 4, 2, 0])
    with torch.no_grad():
        # As open_clip.zero_shot_classifier.build_zero_shot_classifier does.
        embeddings = F.normalize(model.encode_text(text.flatten(0, 1)), dim=-1)
        classifier = embeddings.reshape(CLASSES, TEMPLATES, -1).mean(dim=1)
        classifier = (classifier / classifier.norm(dim=1, keepdim=True)).T
        logits = 100.0 * F.normalize(model.encode_image(image), dim=-1) @ classifier
    top3 = logits.topk(3, dim=1).indices
    outputs = {
        "classifier": classifier,
        "logits": logits,
        "probs": logits.softmax(dim=-1),
        "top3": top3,
        "acc1": (top3[:, 0] == target).float().mean(),
        "acc3": (top3 == target[:, None]).any(1).float().mean(),
    }
    case(
        Path(__file__).parent,
        "open_clip.build_zero_shot_classifier semantics",
        CONFIG,
        {"image": image, "text": text, "target": target},
        outputs,
        model.state_dict(),
        notes="open_clip_torch 3.3.0; logits = 100 * features @ classifier",
    )


if __name__ == "__main__":
    main()
