// Signals: SIGINT stops the answer in progress (a second one within two seconds, or one at the
// prompt, leaves with 130), SIGTERM and SIGHUP ask for an orderly end (143, 129). Handlers only raise
// flags and restore the terminal.
#pragma once

#include "base/cancel.h"

namespace apud {

/// Installs the handlers; called once by main. SIGPIPE keeps its default action (exit 141).
void install_signal_handlers();
/// Raised by SIGINT, SIGTERM and SIGHUP; every long operation looks at it.
CancelFlag& cancel_flag();
/// The signal that asked the process to end (SIGTERM, SIGHUP, second SIGINT), or 0.
int ending_signal();
/// The last signal seen, or 0; cleared by begin_interruptible().
int last_signal();
/// Forgets an earlier SIGINT: called before each answer.
void begin_interruptible();
/// Remembers the terminal modes of stdin so that a fatal signal can put them back.
void remember_terminal_modes();

}  // namespace apud
