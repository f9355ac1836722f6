"""What every `make.py` beside a case uses: parameters with a fixed seed, and the files of a case.

    pip install torch==2.15.0 transformers==5.23.0 open_clip_torch==3.3.0 safetensors numpy
    python <case>/make.py
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file


def fill(module, seed):
    """Gives every parameter a value that matters: no zero biases, no norms of one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = "norm" in name.lower() or ".ln_" in name or name.startswith("ln_")
            if name.endswith("weight") and is_norm:
                parameter.copy_(1 + 0.1 * noise)
            elif parameter.ndim == 0:
                continue
            elif parameter.ndim == 1:
                parameter.copy_(0.1 * noise)
            elif "embed" in name:
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
    return module


def normal(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def case(folder, cls, config, inputs, outputs, weights=None, **meta):
    """Writes the files of a case; `meta` is `call`, `notes`, `mask_outputs` and `tolerance`."""
    folder = Path(folder)
    tensors = lambda named: {k: v.detach().clone().contiguous() for k, v in named.items()}
    (folder / "config.json").write_text(json.dumps(config, indent=1, default=str) + "\n")
    if weights is not None:
        save_file(tensors(weights), folder / "model.safetensors")
    save_file(tensors(inputs), folder / "inputs.safetensors")
    save_file(tensors(outputs), folder / "outputs.safetensors")
    meta = {"cls": cls} | meta
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
