"""What the models at Replicate take, as data.

Names of fields, numbers of references and ends of ranges are from the models' schema pages of November 2026 (A); of
Stable Video Diffusion only the names are (words and ranges: C). Those pages list no words: ratios, resolutions, rates
and file types are what the makers and other hosts of the same models document (B). No price is dated, so none is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from rushes.adapters.capabilities import BOOLEAN, Media, Model, Only, Option, seconds
from rushes.video import Config, Role

IMAGES: Final = Media(types=("image/png", "image/jpeg", "image/webp"))
CLIPS: Final = Media(types=("video/mp4", "video/quicktime"))
SOUNDS: Final = Media(types=("audio/mpeg", "audio/wav"))
ENDS: Final[Mapping[Role, int]] = {"first_frame": 1, "last_frame": 1}
SHAPE: Final = {"prompt": "prompt", "aspect_ratio": "aspect_ratio", "resolution": "resolution", "seed": "seed"}
FRAMES: Final = SHAPE | {"duration_seconds": "duration", "first_frame": "image", "last_frame": "last_frame_image"}
BORROWED: Final = SHAPE | {
    "duration_seconds": "duration",
    "character": "reference_images",  # the three are not told apart
    "style": "reference_images",
    "composition": "reference_images",
    "reference_video": "reference_videos",
    "reference_audio": "reference_audios",
}


def _pictures(most: int) -> dict[Role, int]:
    return {"character": most, "style": most, "composition": most}


P_VIDEO: Final = Model(
    id="prunaai/p-video",
    operations=("text-to-video",),
    aliases=("p-video",),
    durations_s=seconds(1, 20),
    aspect_ratios=("16:9", "9:16", "4:3", "3:4", "3:2", "2:3", "1:1"),
    resolutions=("720p", "1080p"),
    frame_rates=(24.0, 48.0),
    roles={"narration": 1},
    media={"image": IMAGES, "audio": Media(types=("audio/mpeg", "audio/wav", "audio/flac"), most_s=20.0)},
    fields=frozenset({"seed", "enhance_prompt", "generate_audio"}),
    options={"draft": BOOLEAN},
    only=(Only("narration", "duration_seconds", (None,)),),  # the clip is then as long as what is said
    defaults=Config(aspect_ratio="16:9", resolution="720p", fps=24.0),
    wire=FRAMES
    | {"fps": "fps", "enhance_prompt": "prompt_upsampling", "generate_audio": "save_audio", "narration": "audio"},
)
SEEDANCE: Final = Model(
    id="bytedance/seedance-2.0",
    operations=("text-to-video", "image-to-video"),
    aliases=("seedance-2.0", "seedance-2"),
    durations_s=seconds(4, 15),  # the schema admits less, down to -1 for any; the maker does not (B)
    aspect_ratios=("16:9", "9:16", "1:1", "4:3", "3:4", "21:9"),
    resolutions=("480p", "720p"),
    roles=ENDS,
    media={"image": IMAGES},
    fields=frozenset({"seed", "generate_audio"}),
    defaults=Config(aspect_ratio="16:9", duration_seconds=5.0, resolution="720p", generate_audio=True),
    wire=FRAMES | {"generate_audio": "generate_audio"},
)
VIDEO_01: Final = Model(
    id="minimax/video-01",
    operations=("text-to-video", "image-to-video"),
    aliases=("video-01",),
    roles={"first_frame": 1},
    media={"image": IMAGES},
    fields=frozenset({"enhance_prompt"}),
    draws_seed=False,
    wire={
        "prompt": "prompt",
        "enhance_prompt": "prompt_optimizer",
        "first_frame": "first_frame_image",
        "character": "subject_reference",
    },
)
MODELS: Final = (
    P_VIDEO,
    replace(  # the shape is the image's
        P_VIDEO,
        operations=("image-to-video",),
        aspect_ratios=(),
        roles={**ENDS, "narration": 1},
        defaults=Config(resolution="720p", fps=24.0),
    ),
    SEEDANCE,
    replace(
        SEEDANCE,
        operations=("multi-image", "video-to-video"),
        roles={**_pictures(9), "reference_video": 3, "reference_audio": 3},
        media={
            "image": replace(IMAGES, most=9),
            "video": replace(CLIPS, total_s=15.0),
            "audio": replace(SOUNDS, total_s=15.0),
        },
        general="character",
        wire=BORROWED | {"generate_audio": "generate_audio"},
    ),
    VIDEO_01,
    replace(VIDEO_01, operations=("multi-image",), roles={"character": 1}, general="character"),
    Model(
        id="wan-video/wan-2.7-r2v",
        operations=("multi-image", "video-to-video"),
        aliases=("wan-2.7-r2v",),
        durations_s=seconds(2, 10),
        aspect_ratios=("16:9", "9:16", "1:1", "4:3", "3:4"),
        resolutions=("720p", "1080p"),
        roles={**_pictures(5), "reference_video": 5},
        max_inputs=5,  # B, like the five of each
        general="character",
        media={"image": replace(IMAGES, types=(*IMAGES.types, "image/bmp")), "video": CLIPS},
        fields=frozenset({"negative_prompt", "seed"}),
        options={"shot_type": Option("string", ("single", "multi"))},
        defaults=Config(aspect_ratio="16:9", duration_seconds=5.0, resolution="1080p"),
        wire=BORROWED | {"negative_prompt": "negative_prompt"},
    ),
    Model(
        id="stability-ai/stable-video-diffusion",
        operations=("image-to-video",),
        aliases=("stable-video-diffusion", "svd"),
        roles={"first_frame": 1},
        media={"image": IMAGES},
        fields=frozenset({"seed"}),
        options={
            "video_length": Option("string", ("14_frames_with_svd", "25_frames_with_svd_xt")),
            "sizing_strategy": Option("string", ("maintain_aspect_ratio", "crop_to_16_9", "use_image_dimensions")),
            "frames_per_second": Option("integer", least=5, most=30),
            "motion_bucket_id": Option("integer", least=1, most=255),
            "cond_aug": Option("number", least=0),
            "decoding_t": Option("integer", least=1),
        },
        prompt="none",
        wire={"seed": "seed", "first_frame": "input_image"},
    ),
)
VERSIONS: Final = {  # community models are run by version
    "stability-ai/stable-video-diffusion": "3f0457e4619daac51203dedb472816fd4af51f3149fa7a9e0b5ffcf1b8172438",
}
