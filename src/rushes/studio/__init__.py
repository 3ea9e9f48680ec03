"""The studio: what programs, the server and the command line all call. Everything durable happens below it.

Callers hold two classes; the rooms have the functions behind their methods. A room imports only those above it:

    doors      what a studio is made of, and what it needs from outside
    routing    which provider and model a name stands for, and whether it can be used here
    asking     the request in its model's terms, with its price: nothing is stored or paid yet
    beginning  a job that begins once under its key
    batches    several that begin together
    following  what happens to a job, as it happens
    listing    which jobs there are
    showing    a job, its takes and its events in the words that every door uses; pure
    providers  the providers in the same words
    studio     the two classes: Studio, and Job
"""

from rushes.actors.actor import KIND
from rushes.studio.asking import START_WITHIN_S
from rushes.studio.doors import Doors, JobList
from rushes.studio.showing import ATTENTION, event_view, failure
from rushes.studio.studio import MIN_FREE_BYTES, Job, Result, Studio

__all__ = [
    "ATTENTION",
    "KIND",
    "MIN_FREE_BYTES",
    "START_WITHIN_S",
    "Doors",
    "Job",
    "JobList",
    "Result",
    "Studio",
    "event_view",
    "failure",
]
