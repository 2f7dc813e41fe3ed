"""Clip to SceneReport: clips by time, questions from a YAML, backends, answers read into contracts."""

from .backend import Answer, BackendError, ReasonerBackend, create_backend
from .clip_buffer import ClipBuffer, ClipRefused
from .deadline import Deadline
from .newest_slot import NewestSlot
from .questions import PromptBook, PromptError, Question
from .reasoner import Reasoner

__all__ = [
    'Answer', 'BackendError', 'ClipBuffer', 'ClipRefused', 'Deadline', 'NewestSlot', 'PromptBook',
    'PromptError', 'Question', 'Reasoner', 'ReasonerBackend', 'create_backend',
]
