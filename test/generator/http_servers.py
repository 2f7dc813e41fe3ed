"""vLLM-Omni's video jobs and NVIDIA's NIM as they are documented: they check what they get, and misbehave."""

import base64
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import io
import json
import threading

import numpy as np
from PIL import Image

JOINTS_KEY, GRIPPER_KEY = 'observation/joint_position', 'observation/gripper_position'


def rows_of(joints):
    """A chunk that says which request it belongs to: its rows are the request's joints."""
    rows = np.zeros((32, 8))
    rows[:, :7] = joints
    rows[:, 7] = np.linspace(-0.2, 1.2, 32)
    return rows


def action_of(rows):
    return {'data': rows.tolist(), 'shape': list(rows.shape), 'dtype': 'float32', 'raw_action_dim': 8,
            'action_mode': 'policy', 'domain_id': 8}


def spoil(what, rows):
    """Return the action object of a reply that is not right."""
    action = action_of(rows)
    if what == 'nan':
        action['data'][3][2] = float('nan')
    elif what == 'short':
        action = action_of(rows[:16])
    elif what == 'unprocessed':  # the state's row is still there
        action = action_of(np.vstack([rows[:1], rows]))
    elif what == 'lies':
        action['shape'] = [16, 8]
    elif what == 'ragged':
        action['data'][5] = [0.0]
    elif what == 'texts':
        action['data'] = [['1.0'] * 8] * 32
    elif what == 'wide':
        action = {**action_of(np.zeros((32, 10))), 'raw_action_dim': 10}
    elif what == 'domain':
        action['domain_id'] = 7
    elif what == 'no_data':
        del action['data']
    elif what == 'null':
        action = None
    return action


SPOILED = ('nan', 'short', 'unprocessed', 'lies', 'ragged', 'texts', 'wide', 'domain', 'no_data', 'null')


class ModelServer:
    """Serves on a free local port until closed.

    :param plan: What to do with the next requests, one entry each; ``ok`` when it is used up. Common to all:
        stall, trickle, drop, half, broken, huge, 400, 401, 429, 500, 503.
    """

    def __init__(self, plan=()):
        self.plan, self.did = list(plan), []
        self.requests, self.keys, self.paths = [], [], []
        self.released, self._lock = threading.Event(), threading.Lock()
        outer = self

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

            def serve(self):
                length = int(self.headers.get('Content-Length') or 0)
                body = self.rfile.read(length)
                with outer._lock:
                    outer.keys.append(self.headers.get('Authorization', ''))
                    outer.paths.append(f'{self.command} {self.path}')
                try:
                    outer.handle(self, body)
                except OSError:
                    self.close_connection = True

            do_GET = do_POST = do_DELETE = serve

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass

        self._server = Server(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self._server.server_address[1]}'
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self):
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def next(self):
        with self._lock:
            what = self.plan.pop(0) if self.plan else 'ok'
            self.did.append(what)
        return what

    def misbehave(self, handler, what, whole):
        """Do one of the common ones; false if ``what`` is none."""
        data = json.dumps(whole).encode()
        if what in ('stall', 'trickle', 'trickle_head'):
            # Read to its end each trickle is a good reply; only somebody with a deadline calls it none.
            slow = b'X-Slow: %s\r\n' % (b'x' * 3000) if what == 'trickle_head' else b''
            whole = b'HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s' % (slow, len(data), data)
            handler.close_connection = True
            for byte in whole if what != 'stall' else b'':
                handler.wfile.write(bytes([byte]))
                if self.released.wait(0.01):
                    return True
            self.released.wait(30 if what == 'stall' else 0)
        elif what == 'drop':
            handler.close_connection = True
        elif what == 'half':
            handler.send_response(200)
            handler.send_header('Content-Length', str(len(data)))
            handler.end_headers()
            handler.wfile.write(data[:len(data) // 2])
            handler.close_connection = True
        elif what == 'broken':
            handler.reply(200, data[:len(data) // 2])
        elif what == 'huge':
            handler.reply(200, b' ' * (5 * 1024 * 1024))
        elif what == 'list':
            handler.reply(200, [1, 2])
        elif what == '429':
            handler.reply(429, {'detail': 'slow down'}, Retry_After='0')
        elif what == '429 for long':
            handler.reply(429, {'detail': 'slow down'}, Retry_After='30')
        elif what.isdigit():
            handler.reply(int(what), {'detail': f'status {what}'})
        else:
            return False
        return True


def picture_in(data):
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.size, image.mode) == ('PNG', (640, 540), 'RGB')
    return np.asarray(image)


class NimServer(ModelServer):
    """``POST /v1/infer`` of a NIM with the profile nano-droid."""

    def handle(self, handler, body):
        if (handler.command, handler.path) != ('POST', '/v1/infer'):
            return handler.reply(404, {'detail': handler.path})
        request = json.loads(body)
        what = self.next()
        with self._lock:
            self.requests.append(request)
        wrong = self.problem_with(request)
        if wrong:
            return handler.reply(422, {'detail': wrong})
        rows = rows_of(request['action_params']['observation'][JOINTS_KEY])
        if what in SPOILED:
            return handler.reply(200, {'action': spoil(what, rows)})
        reply = {'action': action_of(rows)}
        return None if self.misbehave(handler, what, reply) else handler.reply(200, reply)

    @staticmethod
    def problem_with(request):
        allowed = {'model_mode', 'prompt', 'input_reference', 'action_params', 'num_inference_steps',
                   'guidance_scale', 'flow_shift', 'seed'}
        params = request['action_params']
        head, _, data = request['input_reference'].partition(';base64,')
        picture_in(base64.b64decode(data, validate=True))
        observation = params['observation']
        if set(request) - allowed or set(params) - {'domain_name', 'action_chunk_size', 'observation'}:
            return 'a field that belongs to the profile'
        if (request['model_mode'], params['domain_name'], params['action_chunk_size'], head) != (
                'policy', 'droid_lerobot', 32, 'data:image/png'):
            return 'mode, domain, size or picture'
        if len(observation[JOINTS_KEY]) != 7 or not isinstance(observation[GRIPPER_KEY], float):
            return 'state'
        return ''


class VideoServer(ModelServer):
    """``/v1/videos`` of vLLM-Omni: jobs that are made, asked for and deleted.

    ``plan`` is for POST; ``polls`` for GET, with queued, in_progress, failed, unknown, other, lost besides.
    """

    def __init__(self, plan=(), polls=()):
        self.polls, self.jobs, self.deleted, self.pictures = list(polls), {}, [], []
        super().__init__(plan)

    def handle(self, handler, body):
        path, name = handler.path, handler.path.rpartition('/')[2]
        if (handler.command, path) == ('POST', '/v1/videos'):
            return self.create(handler, body)
        if not path.startswith('/v1/videos/') or name not in self.jobs:
            return handler.reply(404, {'detail': 'Video not found'})
        if handler.command == 'DELETE':
            with self._lock:
                self.deleted.append(name)
            return handler.reply(200, {'id': name, 'deleted': True, 'object': 'video.deleted'})
        return self.poll(handler, name)

    def job(self, name, status, **more):
        return {
            'id': name, 'object': 'video', 'model': 'm', 'prompt': self.jobs[name]['prompt'], 'progress': 0,
            'status': status, 'error': None, 'media_type': 'video/mp4', **more}

    def create(self, handler, body):
        what = self.next()
        message = BytesParser(policy=HTTP).parsebytes(
            b'Content-Type: ' + handler.headers['Content-Type'].encode() + b'\r\n\r\n' + body)
        fields = {}
        for part in message.iter_parts():
            form_name = part.get_param('name', header='content-disposition')
            if form_name == 'input_reference':
                assert part.get_content_type() == 'image/png' and part.get_filename()
                self.pictures.append(picture_in(part.get_payload(decode=True)))
            else:
                fields[form_name] = part.get_payload(decode=True).decode()
        fields['extra_params'] = json.loads(fields['extra_params'])
        with self._lock:
            self.requests.append(fields)
        extra, observation = fields['extra_params'], fields['extra_params']['robot_obs']
        if (extra['action_mode'], extra['domain_name'], extra['action_chunk_size'], extra['raw_action_dim'],
                fields['num_frames'], observation['prompt']) != (
                'policy', 'droid_lerobot', 32, 8, '33', fields['prompt']):
            return handler.reply(400, {'detail': 'not the DROID policy'})
        name = f'video_gen_{len(self.requests):032x}'
        self.jobs[name] = {'prompt': fields['prompt'], 'rows': rows_of(observation[JOINTS_KEY][-1])}
        if what == 'bad_id':
            return handler.reply(200, {**self.job(name, 'queued'), 'id': '../../etc'})
        made = self.job(name, 'queued')
        return None if self.misbehave(handler, what, made) else handler.reply(200, made)

    def poll(self, handler, name):
        with self._lock:
            what = self.polls.pop(0) if self.polls else 'ok'
        rows = self.jobs[name]['rows']
        if what in ('queued', 'in_progress'):
            return handler.reply(200, self.job(name, what))
        if what == 'failed':
            error = {'code': 500, 'message': 'out of memory'}
            return handler.reply(200, self.job(name, 'failed', error=error))
        if what == 'unknown':
            return handler.reply(200, self.job(name, 'paused'))
        if what == 'other':
            done = self.job(name, 'completed', action=action_of(rows))
            return handler.reply(200, {**done, 'id': 'video_gen_9'})
        if what == 'lost':
            return handler.reply(404, {'detail': 'Video not found'})
        if what in SPOILED:
            return handler.reply(200, self.job(name, 'completed', action=spoil(what, rows)))
        done = self.job(name, 'completed', action=action_of(rows), inference_time_s=0.6)
        return None if self.misbehave(handler, what, done) else handler.reply(200, done)
