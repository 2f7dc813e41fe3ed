"""The towers as torch modules that export cleanly: static structure, tensors in, tensors out.

Parameters carry the names of the checkpoint's files, so a segment is filled by name. Norms, rotary
positions and softmax compute in float32, matrices in the module's dtype.
"""

from cosmos3_ros.resources import require

require('torch', 'model')  # the modules import it plainly, to derive from its classes
