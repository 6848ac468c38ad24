"""What to do about each failure: the remedies of this library, and the papers they are from."""

from __future__ import annotations

from dataclasses import dataclass

from poise.monitor.verdict import Finding

ADVICE = {
    "not-finite": "lower the learning rates, normalize the discriminator (bssn), or compute in fp32; "
    "check the data for values that are not finite",
    "exploding-gradients": "halve the learning rates, or bound the gradients by normalizing the discriminator: "
    "poise.normalize(D, 'bssn') (Lin et al. 2021)",
    "vanishing-gradients": "scale the normalization up (bssn, scale 1.4 to 2: Lin et al. 2021), use leaky ReLU, "
    "or a loss that does not saturate (non-saturating, hinge)",
    "discriminator-overpowers": "add R1 (γ 0.1 to 10: Mescheder et al. 2018), lower n_dis or the discriminator's rate, "
    "augment what it sees; look for a difference between real and fake that preprocessing makes",
    "discriminator-blind": "raise the discriminator's rate or n_dis, weaken its penalty, scale its normalization up "
    "(bssn, scale 1.4 to 2: Lin et al. 2021), or add R1 where nothing bounds it; look for real samples among its fakes",
    "mode-collapse": "go back to a checkpoint from before and halve the rates; normalize the discriminator (bssn), "
    "add R1, or take the relativistic loss with R1 and R2 (R3GAN: Huang et al. 2025)",
    "spectral-explosion": "clamp it (poise.normalize(…, 'sigma-clamp', layers={name!r})), or R1 with γ = 10; "
    "go back to a checkpoint from before (Brock et al. 2019, section 4)",
    "spectral-collapse": "hold the spectrum (bssn, or an orthonormal penalty: Brock et al. 2017; Liu et al. 2019, "
    "arXiv 1908.10999), and lower the discriminator's rate",
    "oscillating": "lower the momentum (β₁ = 0) and the rates, add R1, which damps the rotation around the equilibrium "
    "(Mescheder et al. 2018); average the generator's weights (EMA)",
}


@dataclass(frozen=True)
class Remedy:
    """What of an advice a trainer can do by itself when it goes back to a checkpoint from before.

    Attributes:
        g_rate, d_rate: factors of the players' learning rates.
        r1: whether R1 is added, or its γ raised. clamp: whether σ₀ of the layer is held where it was.
        damp: whether both optimizers go on without momentum.
    """

    g_rate: float = 0.5
    d_rate: float = 0.5
    r1: bool = False
    clamp: bool = False
    damp: bool = False


REMEDIES = {
    "not-finite": Remedy(),
    "exploding-gradients": Remedy(),
    "vanishing-gradients": Remedy(r1=True),
    "discriminator-overpowers": Remedy(g_rate=1.0, r1=True),
    "discriminator-blind": Remedy(d_rate=1.0),
    "mode-collapse": Remedy(r1=True),
    "spectral-explosion": Remedy(clamp=True),
    "spectral-collapse": Remedy(g_rate=1.0),
    "oscillating": Remedy(r1=True, damp=True),
}
"""by verdict"""


def advice_for(finding: Finding) -> str:
    """One line; names the layer, as ``poise.normalize`` takes it, where there is one."""
    text = ADVICE[finding.verdict]
    if finding.layer:
        return text.replace("{name!r}", repr(finding.layer.partition(".")[2]))
    return text.replace(", layers={name!r}", "")
