#!/usr/bin/env python3
"""PyTorch's half of `models.py`: transformers, open_clip, and BLIP's training as released.

The arguments and the lines of the output are those of our program (`tests/benchmarks/models`), with one
more command, `make`, that writes random checkpoints and inputs for both halves, and two more options:
`--compile` for torch.compile, `--tf32` for TF32 products on a GPU.

    pip install torch==2.15.0 transformers==5.23.0 open_clip_torch==3.3.0 safetensors numpy pillow
    python reference.py make --dir DIR [--tiny]
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

START = time.perf_counter()
THREADS = next((sys.argv[i + 1] for i, a in enumerate(sys.argv) if a == "--threads"), "2")
os.environ.update(OMP_NUM_THREADS=THREADS, MKL_NUM_THREADS=THREADS, HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1",
                  TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false")

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "parity" / "cases"))

TOP_P = 0.9
SOFT_SHARE = 0.4
ADAMW = dict(lr=3e-4, betas=(0.9, 0.98), eps=1e-6)
WEIGHT_DECAY = 0.05


def emit(line):
    print(json.dumps(line), flush=True)


def peak_rss_mb():
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1.024 / 1e3


def finish(result):
    emit({"result": result, "peak_rss_mb": peak_rss_mb()})


def synchronise(a):
    if a.device.startswith("cuda"):
        torch.cuda.synchronize()


def repeat(a, work):
    """Runs `work` once to warm up, then for each repetition, and prints a line for each."""

    def timed():
        begin = time.perf_counter()
        value = work()
        synchronise(a)
        return time.perf_counter() - begin, value

    seconds, value = timed()
    emit({"ready": True, "warmup_s": seconds})
    for _ in range(a.reps):
        if a.paced and not sys.stdin.readline():
            break
        seconds, value = timed()
        emit({"seconds": seconds})
    return value


def arrays(path, a):
    from safetensors.torch import load_file

    return {name: tensor.to(a.device) for name, tensor in load_file(path).items()}


def placed(model, a):
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[a.dtype]
    return model.to(a.device, dtype).eval()


def compiled(function, a):
    return torch.compile(function, dynamic=True) if a.compile else function


# ---- checkpoints and inputs


def blip_config(size, tiny):
    from transformers import BlipConfig

    # Ids as in the published checkpoints.
    text = dict(num_attention_heads=12, vocab_size=30524, bos_token_id=30522, eos_token_id=2, sep_token_id=102, pad_token_id=0)
    vision = dict(image_size=size)
    common = {}
    if tiny:
        sizes = dict(hidden_size=32, intermediate_size=64, num_attention_heads=2, num_hidden_layers=2)
        text |= sizes | dict(vocab_size=160, bos_token_id=158, encoder_hidden_size=32, max_position_embeddings=64)
        vision |= sizes | dict(patch_size=16)
        common = dict(image_text_hidden_size=16, projection_dim=16)
    return BlipConfig(text_config=text, vision_config=vision, **common)


def clip_config(tiny):
    from transformers import CLIPConfig

    if not tiny:
        return CLIPConfig()
    sizes = dict(hidden_size=32, intermediate_size=64, num_attention_heads=2, num_hidden_layers=2)
    return CLIPConfig(text_config=sizes | dict(vocab_size=160, max_position_embeddings=24, eos_token_id=159, bos_token_id=158),
                      vision_config=sizes | dict(image_size=64, patch_size=16), projection_dim=16)


def open_clip_config(tiny):
    if tiny:
        return {"embed_dim": 16, "quick_gelu": False,
                "vision_cfg": {"image_size": 64, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
                "text_cfg": {"context_length": 24, "vocab_size": 160, "width": 32, "heads": 2, "layers": 2}}
    return {"embed_dim": 512, "quick_gelu": False,
            "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "head_width": 64, "patch_size": 32},
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}}


def released_config(tiny):
    """BLIP-base as `configs/bert_config.json` and `create_vit` of the release have it."""
    if tiny:
        return {"momentum": 0.995, "queue_size": 32, "embed_dim": 16,
                "bert": {"hidden": 32, "ffn": 64, "heads": 2, "layers": 2, "ln_eps": 1e-12, "max_pos": 64},
                "vit": {"img": 64, "patch": 16, "dim": 32, "depth": 2, "heads": 2, "mlp_ratio": 2, "ln_eps": 1e-6},
                "tokenizer": {"pad": 0, "cls": 101, "sep": 102, "dec": 158, "enc": 159, "vocab": 160}}
    return {"momentum": 0.995, "queue_size": 57600, "embed_dim": 256,
            "bert": {"hidden": 768, "ffn": 3072, "heads": 12, "layers": 12, "ln_eps": 1e-12, "max_pos": 512},
            "vit": {"img": 224, "patch": 16, "dim": 768, "depth": 12, "heads": 12, "mlp_ratio": 4, "ln_eps": 1e-6},
            "tokenizer": {"pad": 0, "cls": 101, "sep": 102, "dec": 30522, "enc": 30523, "vocab": 30524}}


def make_pretrained(folder, cls, config, size=None):
    from transformers import BlipImageProcessor

    torch.manual_seed(20240607)
    cls(config).eval().save_pretrained(folder)
    if size:
        BlipImageProcessor(size={"height": size, "width": size}).save_pretrained(folder)


def make_open_clip(folder, tiny):
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    torch.manual_seed(20240607)
    config = open_clip_config(tiny)
    folder.mkdir()
    save_file({k: v.clone().contiguous() for k, v in CLIP(**config).state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


def released(config):
    """BLIP's training network with the first values of the release: 0.02 everywhere, copies equal."""
    from blip_reference import Blip

    torch.manual_seed(20240607)
    model = Blip(config, decodes=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                torch.nn.init.trunc_normal_(parameter, std=0.02)
        for name in ("visual_encoder", "vision_proj", "text_encoder", "text_proj"):
            copy = getattr(model, f"{name}_m")
            for new, old in zip(getattr(model, name).parameters(), copy.parameters()):
                old.copy_(new)
        for queue in (model.image_queue, model.text_queue):
            queue.copy_(F.normalize(torch.randn_like(queue), dim=0))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("_m." not in name)
    return model


def make_released(folder, tiny):
    from safetensors.torch import save_file

    config = released_config(tiny)
    model = released(config)
    folder.mkdir()
    save_file({k: v.contiguous() for k, v in model.stored().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


def picture(path):
    import numpy as np
    from PIL import Image

    y, x = np.mgrid[0:480, 0:640]
    noise = np.random.default_rng(5).normal(0, 6, (480, 640, 3))
    colours = np.stack([x * 255 / 640, y * 255 / 480, (x + y) % 256], -1) + noise
    Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8)).save(path, quality=90)


def make_inputs(folder, sizes, tiny):
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(1)
    words, tokens = (100, 8) if tiny else (30000, 20)
    low = 10 if tiny else 1000
    for size in sizes:
        for batch in (1, 2, 8, 32):
            pixels = torch.randn(batch, 3, size, size, generator=generator)
            save_file({"pixels": pixels}, folder / f"pixels-{size}-{batch}.safetensors")
    for texts in (2, 4, 16):
        ids = torch.randint(low, words, (texts, tokens), generator=generator)
        save_file({"input_ids": ids}, folder / f"texts-{texts}.safetensors")
    size = sizes[0]
    end = 159 if tiny else 49407
    for batch in (2, 8, 64):
        pixels = torch.randn(batch, 3, size, size, generator=generator)
        ids = torch.randint(low, words, (batch, 24 if tiny else 77), generator=generator)
        ids[:, -1] = end
        save_file({"pixels": pixels, "input_ids": ids}, folder / f"clip-batch-{batch}.safetensors")
        ids = torch.randint(low, words, (batch, 12 if tiny else 32), generator=generator)
        ids[:, 0], ids[:, -1] = 101, 102
        save_file({"pixels": pixels, "input_ids": ids}, folder / f"blip-batch-{batch}.safetensors")


def make(a):
    """Writes what is not there yet. A checkpoint of BLIP-base has 0.9 GB."""
    from transformers import BlipForConditionalGeneration, BlipForImageTextRetrieval, CLIPModel

    folder = Path(a.dir)
    folder.mkdir(parents=True, exist_ok=True)
    sizes = (64, 96) if a.tiny else (224, 384)
    makers = {"clip": lambda to: make_pretrained(to, CLIPModel, clip_config(a.tiny)),
              "open-clip": lambda to: make_open_clip(to, a.tiny), "released": lambda to: make_released(to, a.tiny)}
    for size in sizes:
        config = blip_config(size, a.tiny)
        makers[f"captioner-{size}"] = lambda to, c=config, s=size: make_pretrained(to, BlipForConditionalGeneration, c, s)
        makers[f"filter-{size}"] = lambda to, c=config, s=size: make_pretrained(to, BlipForImageTextRetrieval, c, s)
    for name, maker in makers.items():
        if not (folder / name).exists() and (not a.only or name in a.only.split(",")):
            maker(folder / name)
    if not (folder / "one.jpg").exists():
        make_inputs(folder, sizes, a.tiny)
        picture(folder / "one.jpg")
    emit({"made": str(folder)})


# ---- the commands of both halves


def captioner(a):
    from transformers import BlipForConditionalGeneration

    model = placed(BlipForConditionalGeneration.from_pretrained(a.model, dtype=torch.float32), a)
    model.vision_model.forward = compiled(model.vision_model.forward, a)
    model.text_decoder.forward = compiled(model.text_decoder.forward, a)
    return model


def generate(model, pixels, mode, tokens):
    settings = dict(min_new_tokens=tokens, max_new_tokens=tokens, num_beams=3 if mode == "beam" else 1,
                    do_sample=mode == "nucleus")
    if mode == "nucleus":
        settings |= dict(top_p=TOP_P, top_k=0)
    return model.generate(pixels, **settings)


def caption(a):
    model = captioner(a)
    pixels = arrays(a.pixels, a)["pixels"].to(model.dtype)
    with torch.inference_mode():
        ids = repeat(a, lambda: generate(model, pixels, a.mode, a.tokens))
    # The first token is [DEC].
    finish({"ids": ids[:, 1:].tolist()})


def filtered(a):
    from safetensors.torch import save_file
    from transformers.generation.logits_process import TopPLogitsWarper

    model = captioner(a)
    pixels = arrays(a.pixels, a)["pixels"].to(model.dtype)
    prefix = arrays(a.prefix, a)["input_ids"]
    with torch.inference_mode():
        states = model.vision_model(pixel_values=pixels).last_hidden_state
        logits = model.text_decoder(input_ids=prefix, encoder_hidden_states=states).logits
        logits = logits.flatten(0, 1).float()
        logits[:, model.config.text_config.sep_token_id] = -torch.inf
        probabilities = TopPLogitsWarper(TOP_P)(None, logits).softmax(-1)
    save_file({"probabilities": probabilities.cpu().contiguous()}, a.out)
    finish({"rows": len(probabilities)})


def match(a):
    """Scores of all texts; each picture is encoded once."""
    from transformers import BlipForImageTextRetrieval

    model = placed(BlipForImageTextRetrieval.from_pretrained(a.model, dtype=torch.float32), a)
    pixels = arrays(a.pixels, a)["pixels"].to(model.dtype)
    ids = arrays(a.texts, a)["input_ids"]
    each = len(ids) // len(pixels)
    attention = torch.ones_like(ids)
    vision, text = compiled(model.vision_model, a), compiled(model.text_encoder, a)

    def work():
        states = vision(pixel_values=pixels).last_hidden_state.repeat_interleave(each, 0)
        mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
        hidden = text(input_ids=ids, attention_mask=attention, encoder_hidden_states=states,
                      encoder_attention_mask=mask).last_hidden_state
        return model.itm_head(hidden[:, 0])

    with torch.inference_mode():
        finish({"logits": repeat(a, work).float().flatten().tolist()})


def embed(a):
    from transformers import CLIPModel

    model = placed(CLIPModel.from_pretrained(a.model, dtype=torch.float32), a)
    pixels = arrays(a.pixels, a)["pixels"].to(model.dtype)
    vision = compiled(model.vision_model, a)
    with torch.inference_mode():
        features = repeat(a, lambda: model.visual_projection(vision(pixel_values=pixels).pooler_output))
    finish({"features": features[:4].float().flatten().tolist()})


def optimizer(model):
    """Decay by dimension, as in our half."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
              {"params": [p for p in trained if p.ndim >= 2], "weight_decay": WEIGHT_DECAY}]
    return torch.optim.AdamW(groups, **ADAMW)


def train(a):
    batch = arrays(a.batch, a)
    model, loss_of, after = (clip_training if a.kind == "clip" else blip_training)(a, batch["pixels"], batch["input_ids"])
    update = optimizer(model)
    losses = []
    Path("/proc/self/clear_refs").write_text("5")
    autocast = torch.autocast("cuda", torch.bfloat16, enabled=a.dtype == "bf16")

    def work():
        with autocast:
            loss = loss_of()
        loss.backward()
        update.step()
        update.zero_grad(set_to_none=True)
        after()
        losses.append(loss.item())

    repeat(a, work)
    finish({"losses": losses})


def clip_training(a, pixels, ids):
    import math

    from open_clip.loss import ClipLoss
    from open_clip.model import CLIP
    from safetensors.torch import load_file

    folder = Path(a.model)
    model = CLIP(**json.loads((folder / "config.json").read_text()))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    model = model.to(a.device).train()
    forward, loss = compiled(model, a), ClipLoss()

    def after():
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))

    return model, lambda: loss(*forward(pixels, ids)), after


def blip_training(a, pixels, ids):
    from safetensors.torch import load_file

    folder = Path(a.model)
    model = released(json.loads((folder / "config.json").read_text()))
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    model = model.to(a.device).train()
    for name in ("visual_encoder", "text_encoder", "visual_encoder_m", "text_encoder_m", "text_decoder"):
        getattr(model, name).forward = compiled(getattr(model, name).forward, a)
    mask, rows = torch.ones_like(ids), len(ids)
    own = lambda columns: torch.zeros(rows, columns, device=a.device).fill_diagonal_(1)

    def negatives(logits):
        """Another sample for each, drawn as the release draws it."""
        with torch.no_grad():
            weights = F.softmax(logits[:, :rows].float(), dim=1) + 1e-4
            return torch.multinomial(weights.fill_diagonal_(0), 1)[:, 0]

    def loss():
        states, _, _, itc, (i2t, t2i, _, _) = model.contrast(pixels, ids, mask, SOFT_SHARE, own)
        _, itm = model.matching(states, ids, mask, negatives(t2i), negatives(i2t))
        _, lm = model.language(states, ids, mask)
        return itc + itm + lm

    return model, loss, lambda: None


def cold(a):
    from PIL import Image
    from transformers import BlipForConditionalGeneration, BlipImageProcessor

    prepare = BlipImageProcessor.from_pretrained(a.model)
    model = placed(BlipForConditionalGeneration.from_pretrained(a.model, dtype=torch.float32), a)
    loaded = time.perf_counter() - START
    pixels = prepare(images=Image.open(a.image).convert("RGB"), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        ids = generate(model, pixels.to(a.device, model.dtype), "greedy", a.tokens)
    finish({"loaded_s": loaded, "first_caption_s": time.perf_counter() - START, "ids": ids[:, 1:].tolist()})


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    run = argparse.ArgumentParser(add_help=False)
    run.add_argument("--device", default="cpu")
    run.add_argument("--dtype", default="f32")
    run.add_argument("--threads", type=int, default=2)
    run.add_argument("--reps", type=int, default=3)
    run.add_argument("--paced", action="store_true")
    run.add_argument("--compile", action="store_true")
    run.add_argument("--tf32", action="store_true")
    options = {
        "make": ["dir"], "caption": ["model", "pixels", "mode"], "filtered": ["model", "pixels", "prefix", "out"],
        "match": ["model", "pixels", "texts"], "embed": ["model", "pixels"], "train": ["kind", "model", "batch"],
        "cold": ["model", "image"],
    }
    for name, wanted in options.items():
        command = commands.add_parser(name, parents=[run])
        for option in wanted:
            command.add_argument(f"--{option}", required=True)
        if name in ("caption", "cold"):
            command.add_argument("--tokens", type=int, default=20)
        if name == "make":
            command.add_argument("--tiny", action="store_true")
            command.add_argument("--only", help="names of checkpoints, with commas")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.backends.cuda.matmul.allow_tf32 = a.tf32
    torch.backends.cudnn.allow_tf32 = a.tf32
    globals()[a.command](a)


if __name__ == "__main__":
    main()
