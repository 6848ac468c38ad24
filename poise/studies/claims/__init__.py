"""The papers' claims as data, by name: 1–5 of BSN, 6–9 of SN, 10 and 11 of WN, 12–16 of BigGAN, 17 of R3GAN.

Each judge's rule stands in its docstring and was written before any of its runs was looked at. How intervals decide,
and how failed runs count, is in ``judging``; what is run, in ``settings``; what it costs, in ``costs``.
"""

from __future__ import annotations

from poise.studies.claim import Claim
from poise.studies.claims import biggan, bsn, bssn, collapse, r3gan, sn, truncation, wn

CLAIMS: dict[str, Claim] = {
    claim.name: claim for paper in (bsn, bssn, sn, wn, biggan, truncation, collapse, r3gan) for claim in paper.CLAIMS
}
