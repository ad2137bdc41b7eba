"""Handing memory over from one node to another: offer, pull, release, lease, abort. What every prefill/decode connector
uses; docs/handoff.md says what holds."""

from tent_core.handoff.handoff import Handoff
from tent_core.handoff.offer import Offer
from tent_core.handoff.pull import Pull
from tent_core.handoff.ticket import Ticket

__all__ = ["Handoff", "Offer", "Pull", "Ticket"]
