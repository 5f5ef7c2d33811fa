# SPDX-License-Identifier: Apache-2.0
from owl.logging import silence_imports

silence_imports()
