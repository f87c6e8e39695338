// Signals: SIGINT stops the answer in progress (a second one within two seconds, or one at the
// prompt, leaves with 130), SIGTERM and SIGHUP ask for an orderly end (143, 129). Handlers only
// raise flags and restore the terminal.
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
/// Thrown where waiting for input was cut short; main turns it into 130, 143 or 129.
struct Interrupted {};
/// Waits until `fd` can be read (or is at its end); false when a signal came first, whichever
/// thread it was delivered to.
bool wait_readable(int fd);
/// Remembers the terminal modes of stdin so that a fatal signal can put them back.
void remember_terminal_modes();

}  // namespace apud
