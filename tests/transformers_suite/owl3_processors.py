# SPDX-License-Identifier: Apache-2.0
"""transformers' own tests of processors, for Owl3's; copied like owl3_models.py.

OWL_FOLDER is a folder with a tokenizer.
"""

import os
import tempfile
import unittest
from pathlib import Path

import av
import numpy as np
from PIL import Image
from transformers import AutoTokenizer

from owl.hf import Owl3Processor
from owl.portable.tokenizer_owl import load_hf_tokenizer
from tests import test_processing_common as common


def picture_and_clip() -> dict[str, str]:
    """Write the media that the tests would download."""
    folder = Path(tempfile.mkdtemp())
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "a.png")
    with av.open(str(folder / "a.mp4"), "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for shade in range(11):
            pixels = np.full((48, 64, 3), shade * 20, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode())
    return {".png": str(folder / "a.png"), ".mp4": str(folder / "a.mp4")}


_media = picture_and_clip()
if hasattr(common, "MODALITY_INPUT_DATA"):
    common.MODALITY_INPUT_DATA["images"] = [_media[".png"]] * 2
    common.MODALITY_INPUT_DATA["videos"] = [_media[".mp4"]] * 2
common.url_to_local_path = lambda url, *_, **__: _media[".mp4" if url.endswith("mp4") else ".png"]


class Owl3ProcessorTest(common.ProcessorTesterMixin, unittest.TestCase):
    processor_class = Owl3Processor
    image_token, video_token = "<|image|>", "<|video|>"
    videos_input_name = "pixel_values"

    @classmethod
    def _setup_tokenizer(cls):
        return load_hf_tokenizer(os.environ["OWL_FOLDER"])

    @staticmethod
    def prepare_processor_dict():
        return {"image_size": 28, "template": "v3"}

    if not hasattr(common.ProcessorTesterMixin, "_setup_from_components"):  # transformers 4

        @classmethod
        def setUpClass(cls):
            cls.tmpdirname = tempfile.mkdtemp()
            made = Owl3Processor(cls._setup_tokenizer(), **cls.prepare_processor_dict())
            made.save_pretrained(cls.tmpdirname)

        def get_tokenizer(self, **kwargs):
            return AutoTokenizer.from_pretrained(self.tmpdirname, **kwargs)
