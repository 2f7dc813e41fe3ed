"""A small OpenAI-compatible server that checks what it gets and misbehaves on request."""

import base64
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import json
import threading

ANSWER = json.dumps(
    {
        'caption': 'A cube.',
        'objects': [{'label': 'cube', 'bbox_2d': [0, 0, 500, 500]}],
        'next_action': 'lift it',
        'task_state': 'in_progress',
        'hazards': [],
        'plausibility': 'possible',
    }
)


def problem_with(body) -> str:
    """Return what is wrong with a chat completion request, by the documented format."""
    if not isinstance(body, dict) or body.get('model') != 'nvidia/Cosmos3-Nano':
        return 'model'
    if (
        not isinstance(body.get('max_tokens'), int)
        or body.get('temperature') != 0
        or not isinstance(body.get('stream'), bool)
    ):
        return 'sampling'
    if [m.get('role') for m in body.get('messages', [])] not in (['system', 'user'], ['user']):
        return 'messages'
    parts = body['messages'][-1]['content']
    if parts[-1].get('type') != 'text' or not any(p['type'] == 'image_url' for p in parts):
        return 'media first, text last'
    for part in parts:
        if part['type'] == 'image_url':
            head, _, data = part['image_url']['url'].partition(';base64,')
            if head != 'data:image/jpeg' or not base64.b64decode(data, validate=True).startswith(
                b'\xff\xd8\xff'
            ):
                return 'image'
        elif part['type'] != 'text' or not isinstance(part['text'], str):
            return 'part'
    form = body.get('response_format')
    if form and (form.get('type') != 'json_schema' or not {'name', 'schema'} <= set(form['json_schema'])):
        return 'response_format'
    return ''


class OpenAIServer:
    """Serves on a free local port until closed.

    :param behave: Number of the request to one of: ok, stall, trickle, 500, 503, 429, 400, broken, half,
        drop, empty, list, null, huge.
    """

    def __init__(self, behave: Callable[[int], str] = lambda _: 'ok', port: int = 0) -> None:
        self.requests: list[dict] = []
        self.keys: list[str] = []
        self.did: list[str] = []
        self.streamed: list[str] = []
        self.released = threading.Event()
        outer, counted = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'
            disable_nagle_algorithm = True

            def log_message(self, *_):
                pass

            def reply(self, status, content, **headers):
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in {'Content-Length': str(len(data)), **headers}.items():
                    self.send_header(name.replace('_', '-'), value)
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self):
                self.reply(
                    200, {'object': 'list', 'data': [{'id': 'nvidia/Cosmos3-Nano', 'object': 'model'}]}
                )

            def do_POST(self):
                try:
                    self.answer()
                except OSError:
                    self.close_connection = True

            def stream(self, what):
                """Send server-sent events: the answer in pieces of seven characters, then the usage."""
                self.send_response(200)
                self.send_header('Content-Type', 'text/event-stream')
                self.send_header('Connection', 'close')
                self.end_headers()
                self.close_connection = True
                text = ANSWER + ' and more that nobody asked for'
                pieces = [text[i : i + 7] for i in range(0, len(text), 7)]
                events = [{'choices': [{'index': 0, 'delta': {'role': 'assistant'}}]}]
                events += [{'choices': [{'index': 0, 'delta': {'content': p}}]} for p in pieces]
                events.append({'choices': [{'index': 0, 'delta': {}, 'finish_reason': 'stop'}]})
                events.append({'choices': [], 'usage': {'prompt_tokens': 970, 'completion_tokens': 60}})
                lines = [f'data: {json.dumps(event)}\n\n' for event in events] + ['data: [DONE]\n\n']
                if what != 'ok':
                    odd = {
                        'broken': 'data: {"choices": [\n\n',
                        'error': 'data: {"error": {"message": "engine died"}}\n\n',
                        'list': 'data: [1]\n\n',
                    }
                    lines = [': a comment\n\n', *lines[:9], odd.get(what, '')]
                for line in lines:
                    data = line.encode()
                    self.wfile.write(data[:5])
                    self.wfile.flush()
                    self.wfile.write(data[5:])
                outer.streamed.append(what)
                if what == 'stall':
                    outer.released.wait(30)

            def answer(self):
                body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
                with counted:
                    number = len(outer.requests)
                    outer.requests.append(body)
                    outer.keys.append(self.headers.get('Authorization', ''))
                    what = behave(number)
                    outer.did.append(what)
                wrong = problem_with(body)
                if self.path != '/v1/chat/completions' or wrong:
                    return self.reply(400, {'error': {'message': f'bad request: {wrong or self.path}'}})
                reply = {
                    'id': f'chat-{number}',
                    'object': 'chat.completion',
                    'model': body['model'],
                    'choices': [
                        {
                            'index': 0,
                            'finish_reason': 'stop',
                            'message': {'role': 'assistant', 'content': ANSWER},
                        }
                    ],
                    'usage': {'prompt_tokens': 970, 'completion_tokens': 60, 'total_tokens': 1030},
                }
                whole = json.dumps(reply).encode()
                if body['stream'] and what in ('ok', 'half', 'broken', 'error', 'stall', 'list'):
                    return self.stream(what)
                if what == 'ok':
                    self.reply(200, whole)
                elif what == 'stall':
                    outer.released.wait(30)
                    self.close_connection = True
                elif what == 'trickle':
                    self.send_response(200)
                    self.send_header('Content-Length', str(len(whole)))
                    self.end_headers()
                    for byte in whole:
                        self.wfile.write(bytes([byte]))
                        if outer.released.wait(0.02):
                            return
                elif what in ('500', '503'):
                    self.reply(int(what), {'error': {'message': 'engine died'}})
                elif what == '429':
                    self.reply(429, {'error': {'message': 'slow down'}}, Retry_After='0')
                elif what == '400':
                    self.reply(400, {'error': {'message': 'context length exceeded'}})
                elif what == 'broken':
                    self.reply(200, whole[: len(whole) // 2])
                elif what == 'half':
                    self.send_response(200)
                    self.send_header('Content-Length', str(len(whole)))
                    self.end_headers()
                    self.wfile.write(whole[:40])
                    self.close_connection = True
                elif what == 'drop':
                    self.close_connection = True
                elif what == 'empty':
                    self.reply(200, {'choices': []})
                elif what == 'list':
                    self.reply(200, [1])
                elif what == 'null':
                    self.reply(200, {'choices': [{'message': {'content': None}}]})
                elif what == 'huge':
                    self.reply(200, b' ' * (5 * 1024 * 1024))

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, *_):
                pass

        self._server = Server(('127.0.0.1', port), Handler)
        self.port = self._server.server_address[1]
        self.base_url = f'http://127.0.0.1:{self.port}/v1'
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def __enter__(self) -> 'OpenAIServer':
        return self

    def __exit__(self, *_) -> None:
        self.close()
