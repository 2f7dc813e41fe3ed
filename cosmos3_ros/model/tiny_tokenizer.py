"""The tokenizer of our own checkpoints: byte-level BPE trained here, with the model's special tokens.

It is of Qwen2's kind (NFC, Qwen's splitting rule, byte level), as Cosmos 3's is, but its
vocabulary is small and so its ids differ: read ids from the tokenizer, never write them down.
"""

from collections.abc import Iterator
from itertools import product
import json
from typing import Any

from cosmos3_ros.resources import require

# In the order of Qwen3-VL's vocabulary, where they follow the 151643 merges.
SPECIAL_TOKENS = (
    '<|endoftext|>', '<|im_start|>', '<|im_end|>', '<|object_ref_start|>', '<|object_ref_end|>',
    '<|box_start|>', '<|box_end|>', '<|quad_start|>', '<|quad_end|>', '<|vision_start|>', '<|vision_end|>',
    '<|vision_pad|>', '<|image_pad|>', '<|video_pad|>',
)
MARKUP_TOKENS = ('<tool_call>', '</tool_call>', '<tool_response>', '</tool_response>', '<think>', '</think>')

# A conversation as Qwen3-VL's template renders it (facts: docs of transformers, "chat templates"),
# less tools. Media stand where the message lists them.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' -}}"
    "{%- if message.content is string -%}{{- message.content -}}"
    "{%- else -%}{%- for part in message.content -%}"
    "{%- if part.type == 'image' or 'image' in part or 'image_url' in part -%}"
    "{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- elif part.type == 'video' or 'video' in part -%}"
    "{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}"
    "{%- elif 'text' in part -%}{{- part.text -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)

_COLOURS = ('red', 'green', 'blue', 'yellow', 'orange', 'purple', 'black', 'white')
_THINGS = ('cube', 'block', 'ball', 'cup', 'bowl', 'box', 'object', 'drawer', 'target zone', 'table')
_TASKS = (
    'reach the {}', 'reach above the {}', 'push the {} to the target zone',
    'push the {} into the target zone',
    'pick up the {}', 'pick up the {} and place it in the target zone', 'put the {} on the target zone',
    'move the gripper to the {}', 'open the gripper above the {}', 'close the gripper on the {}',
    'lift the {}', 'grasp the {}', 'place the {} in the bowl', 'move the arm away from the {}',
)
_STATES = ('unknown', 'in_progress', 'done', 'failed')
_SENTENCES = (
    'This video contains concatenated views from multiple camera perspectives.',
    'The top row is from the wrist-mounted camera.',
    'The bottom row contains two horizontally concatenated third-person perspective views of the scene '
    'from opposite sides, with the robot visible.',
    'The video is 2.0 seconds long and is of 15 FPS.',
    'This video is of 544x736 resolution.', 'This video is of 144x160 resolution.',
    'This video is captured from a wrist-mounted camera.',
    'This video is captured from a first-person perspective looking at the scene.',
    'You are a helpful assistant.', 'What can be the next immediate action?',
    'Locate the accurate bounding box of the cube. Return a json.', 'Describe what the robot is doing.',
    'Answer with yes or no.', 'yes', 'no', '(A) Possible (B) Impossible', 'Is this physically possible?',
    'Answer the question using the following format:',
    'Write your final answer immediately after the </think> tag.',
    'You are given the task. Specify the 2D trajectory your end effector should follow in pixel space.',
    'The robot arm holds the cube.', 'The gripper is open.', 'The gripper is closed.',
    'The cube is on the table.', 'The cube is inside the target zone.', 'The arm moves towards the cube.',
    'The gripper touches the cube.', 'Nothing is in the way.', 'The task is done.', 'The task is not done.',
    'system\n', 'user\n', 'assistant\n',
)


def corpus() -> Iterator[str]:
    """Yield the texts that the vocabulary is trained on: instructions, prompts, answers as JSON."""
    for _ in range(20):
        yield from _SENTENCES
    for number, (task, colour, thing) in enumerate(product(_TASKS, _COLOURS, _THINGS)):
        instruction = task.format(f'{colour} {thing}')
        yield instruction
        yield json.dumps({
            'cinematography': {'framing': ' '.join(_SENTENCES[:3])},
            'actions': [{'time': '0:00-0:02', 'description': f'{instruction.capitalize()}.',
                         'idle_frame': '0 out of 33.'}],
            'duration': '2s', 'fps': 15.0, 'resolution': {'H': 544, 'W': 736}, 'aspect_ratio': '4,3'})
        yield json.dumps({
            'caption': f'The robot arm should {instruction}.',
            'objects': [{'label': f'{colour} {thing}', 'bbox_2d': [number % 997, 12, 345, 678]}],
            'next_action': instruction, 'task_state': _STATES[number % 4], 'hazards': [],
            'plausibility': 'possible'})
        yield json.dumps([{'point_2d': [number % 997, 500], 'label': 'gripper trajectory'}])


def build_tokenizer(vocabulary: int) -> Any:
    """Train the tokenizer; the same argument gives the same tokenizer.

    :param vocabulary: Most entries, special tokens included; at least 256 plus those.
    :returns: A ``transformers.Qwen2Tokenizer`` with the chat template set.
    :raises ValueError: Too few entries.
    """
    tokens = (*SPECIAL_TOKENS, *MARKUP_TOKENS)
    if vocabulary < 256 + len(tokens):
        raise ValueError(f'vocabulary: {vocabulary} arrived, at least {256 + len(tokens)} are needed')
    transformers = require('transformers', 'model')
    tokenizers = require('tokenizers', 'model')
    empty = transformers.Qwen2Tokenizer()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary - len(tokens), show_progress=False, min_frequency=2,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.normalizer = empty.backend_tokenizer.normalizer
    trained.pre_tokenizer = empty.backend_tokenizer.pre_tokenizer
    trained.train_from_iterator(corpus(), trainer)
    model = json.loads(trained.to_str())['model']
    added = [
        *(tokenizers.AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS),
        *(tokenizers.AddedToken(t, special=False, normalized=False) for t in MARKUP_TOKENS),
    ]
    first = len(model['vocab'])
    tokenizer = transformers.Qwen2Tokenizer(
        vocab=model['vocab'], merges=[tuple(merge) for merge in model['merges']],
        unk_token=None, eos_token='<|im_end|>', pad_token='<|endoftext|>',
        added_tokens_decoder={first + i: token for i, token in enumerate(added)},
        model_max_length=262144, clean_up_tokenization_spaces=False)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
