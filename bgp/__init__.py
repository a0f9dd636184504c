"""The GoBGP sidecar: keep a gobgpd configured, follow what it learns, choose routes from it.

`speaker.Speaker` is the task that keeps a gobgpd as `events.SpeakerSpec` wants it; `rib.Rib` chooses routes
from what it reports; `events` holds the vocabulary of both. A leaf: knows neither wccpd, nor gre, nor config,
so constructors take plain values.
"""
