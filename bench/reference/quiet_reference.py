"""The reference as every script here takes it: without the network, on one thread, and without a word."""

import os
import warnings


def quiet_reference():
    """torch and transformers."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    import transformers

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return torch, transformers
