/* SPDX-License-Identifier: MIT
 *
 * Being asked to stop. SIGTERM and SIGUSR1 (what batch systems send before they kill) and SIGINT are noted instead of ending the
 * process; the training loop looks between steps. A process has one set of signal handlers, so this is the one state that no
 * context can hold. A second SIGINT ends the process at once. */
#ifndef ASTROMER_TRAIN_SIGNALS_H
#define ASTROMER_TRAIN_SIGNALS_H

void signals_catch(void); /* from now on note them; forgets earlier ones */
int signals_caught(void); /* the number of the signal that came, 0 when none did */
const char *signals_name(int number);
void signals_release(void); /* back to the default; a pipe that nobody reads stays no reason to end */

#endif
