"""What a run shows a reasoner: what it was trained on, or on a CPU a little."""

import json

from cosmos3_ros.cli.running import perception_parameters


def test_a_trained_reasoner_is_shown_what_it_was_trained_on(tmp_path):
    settings = {'cameras': ['exterior_1', 'wrist'], 'frames': 8, 'fps': 4.0, 'max_frame_pixels': 61440}
    path = tmp_path / 'cosmos3_ros.json'
    path.write_text(json.dumps({'stages': {'reasoner': {'settings': {**settings, 'scene_share': 0.6}}}}))
    for device in ('cpu', 'cuda:0'):
        shown = perception_parameters(device, tmp_path)
        assert settings.items() <= shown.items() and shown['max_new_tokens'] >= 800
        assert shown['answer_lookup'] == (device == 'cpu')
    for text in ('{}', '{"stages": {"vae": {}}}', '['):
        path.write_text(text)
        assert perception_parameters('cuda:0', tmp_path) == {}
        assert perception_parameters('cpu', tmp_path)['frames'] == 4
    assert perception_parameters('cpu', tmp_path / 'nothing')['max_new_tokens'] == 48
