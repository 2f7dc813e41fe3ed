"""The tokenizer loses nothing, is the same every time, and knows the model's special tokens."""

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from cosmos3_ros.model import tiny_tokenizer


@pytest.fixture(scope='module')
def tokenizer():
    return tiny_tokenizer.build_tokenizer(2048)


@settings(max_examples=80, deadline=None)
@given(text=st.text(st.characters(exclude_categories=['Cs']), max_size=60))
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == unicodedata.normalize('NFC', text)


@pytest.mark.parametrize('token', [*tiny_tokenizer.SPECIAL_TOKENS, *tiny_tokenizer.MARKUP_TOKENS])
def test_every_special_token_is_one_id_wherever_it_stands(tokenizer, token):
    ids = tokenizer.encode(f'a{token}b')
    assert ids.count(tokenizer.convert_tokens_to_ids(token)) == 1
    assert tokenizer.convert_tokens_to_ids(token) >= len(tokenizer) - len(
        tiny_tokenizer.SPECIAL_TOKENS) - len(tiny_tokenizer.MARKUP_TOKENS)


def test_markup_survives_where_special_tokens_are_skipped(tokenizer):
    ids = tokenizer.encode('<|im_start|><think>so</think>yes<|im_end|>')
    assert tokenizer.decode(ids, skip_special_tokens=True) == '<think>so</think>yes'


def test_two_builds_are_equal(tokenizer):
    again = tiny_tokenizer.build_tokenizer(2048)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_conversation_is_rendered_as_qwen_does(tokenizer):
    text = tokenizer.apply_chat_template([
        {'role': 'system', 'content': 'Be brief.'},
        {'role': 'user', 'content': [
            {'type': 'video'}, {'type': 'image'}, {'type': 'text', 'text': 'What?'}]},
        {'role': 'assistant', 'content': 'A cube.'},
    ], tokenize=False, add_generation_prompt=True)
    assert text == (
        '<|im_start|>system\nBe brief.<|im_end|>\n'
        '<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>'
        '<|vision_start|><|image_pad|><|vision_end|>What?<|im_end|>\n'
        '<|im_start|>assistant\nA cube.<|im_end|>\n<|im_start|>assistant\n')


def test_instructions_are_short(tokenizer):
    assert len(tokenizer.encode('pick up the red cube and place it in the target zone')) <= 14


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match='vocabulary: 256 arrived, at least 276'):
        tiny_tokenizer.build_tokenizer(256)
