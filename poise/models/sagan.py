"""The self-attention pair of Zhang et al. 2018 (arXiv 1805.08318): the ResNet of ``sngan`` with attention in each.

The paper normalizes the weights of both networks spectrally: put that on with ``poise.normalize``. Attention stands
behind the first block whose output has this height, in pixels:

==========  =========  =============  =====================================================================
resolution  generator  discriminator  source
==========  =========  =============  =====================================================================
32          16         8              torch-mimicry's; the paper has no such size
128         32         32             the paper's table 1, feat32, the best of the places compared
==========  =========  =============  =====================================================================

The discriminator's blocks have as many channels between their convolutions as before them, as in Miyato et al. 2018 and
torch-mimicry; the authors' code has as many as after them.
"""

from __future__ import annotations

from poise.models.network import known_resolution
from poise.models.sngan import Conditioning, SnganDiscriminator, SnganGenerator, Upsampling

ATTENTION = {32: (16, 8), 128: (32, 32)}
"""resolution ↦ height of the image that is attended to in the generator and in the discriminator, pixels"""


def sagan(
    resolution: int = 128,
    width: int | None = None,
    latent_dim: int = 128,
    num_classes: int = 0,
    conditioning: Conditioning = "projection",
    upsample: Upsampling = "nearest",
    rectified_shortcuts: bool = False,
) -> tuple[SnganGenerator, SnganDiscriminator]:
    """Self-attention GAN of Zhang et al. 2018, section 3: resolutions 32 and 128.

    Args:
        resolution: image height and width in pixels.
        width: channels in units of ``poise.models.sngan.PLANS``, None: 64 at 128 pixels, 128 at 32; what is attended to
            must have a multiple of 8 channels.
        latent_dim: length of z.
        num_classes, conditioning, upsample, rectified_shortcuts: as of ``sngan``; the paper has 1000 classes and a
            projection.

    Raises:
        ValueError: a resolution, conditioning or way of enlarging it does not have, or a width that does not fit.
    """
    in_generator, in_discriminator = ATTENTION[known_resolution(resolution, ATTENTION, "sagan")]
    return (
        SnganGenerator(resolution, width, latent_dim, num_classes, upsample, in_generator),
        SnganDiscriminator(resolution, width, num_classes, conditioning, in_discriminator, rectified_shortcuts),
    )
