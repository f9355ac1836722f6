"""Makes this case again with ../blip_reference.py (see ../write.py)."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
from blip_reference import Blip
from write import case, fill, normal

CONFIG = {
    "alpha": 0.4,
    "momentum": 0.995,
    "queue_size": 8,
    "embed_dim": 8,
    "bert": {"hidden": 16, "ffn": 32, "heads": 4, "layers": 1, "ln_eps": 1e-12, "max_pos": 24},
    "vit": {"img": 32, "patch": 16, "dim": 16, "depth": 1, "heads": 4, "mlp_ratio": 2, "ln_eps": 1e-06},
    "tokenizer": {"pad": 0, "cls": 2, "sep": 3, "dec": 43, "enc": 44, "vocab": 45},
}


def main():
    model = fill(Blip(CONFIG, decodes=False), 91).train()
    model.image_queue.copy_(F.normalize(normal([8, 8], 92), dim=0))
    model.text_queue.copy_(F.normalize(normal([8, 8], 93), dim=0))
    # Six entries are filled; two of them are of the first picture. An empty one has the id -100.
    model.register_buffer("idx_queue", torch.tensor([[7, 5, 9, 5, 11, 4, -100, -100]]))
    model.queue_ptr[0] = 6
    first = model.stored()
    image_id = torch.tensor([5, 6])
    ids = torch.randint(4, 43, [2, 10], generator=torch.Generator().manual_seed(15))
    mask = torch.ones_like(ids)
    ids[:, 0] = CONFIG["tokenizer"]["cls"]
    for row, last in enumerate([6, 9]):
        ids[row, last] = CONFIG["tokenizer"]["sep"]
        ids[row, last + 1 :] = 0
        mask[row, last + 1 :] = 0
    image = normal([2, 3, 32, 32], 16)
    alpha = torch.tensor(0.2)

    def same_picture(columns):
        everything = torch.cat([image_id[None], model.idx_queue], 1)
        same = torch.eq(image_id[:, None], everything).float()
        assert same.shape[1] == columns
        return same / same.sum(1, keepdim=True)

    start = int(model.queue_ptr)
    states, images, texts, itc, (_, _, i2t_targets, t2i_targets) = model.contrast(image, ids, mask, alpha, same_picture)
    model.idx_queue[:, start : start + 2] = image_id
    itm_logits, itm = model.matching(states, ids, mask)
    outputs = {
        "loss": itc + itm, "loss_itc": itc, "loss_itm": itm,
        # Of the batch alone: what the hard negatives are drawn from.
        "sim_i2t": images @ texts.T / model.temp,
        "sim_i2t_targets": i2t_targets, "sim_t2i_targets": t2i_targets,
        "itm_logits": itm_logits, "idx_queue_after": model.idx_queue, "queue_ptr_after": model.queue_ptr,
    }
    case(
        Path(__file__).parent,
        "lavis.models.blip_models.BlipRetrieval",
        CONFIG,
        {"image": image, "input_ids": ids, "attention_mask": mask, "alpha": alpha, "image_id": image_id},
        outputs,
        first,
        notes="positives are all entries of the same image id, with equal shares; idx_queue starts at -100",
    )


if __name__ == "__main__":
    main()
