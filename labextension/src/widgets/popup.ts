import type { IClient, Translate } from '../contract';
import { hostPicker } from '../views';

/** The host picker below a button: the browser closes it on Escape or a click elsewhere, and gives the focus back. */
export function openPicker(anchor: HTMLElement, client: IClient, onChosen: () => void, t: Translate): HTMLElement {
  const popup = document.createElement('div');
  popup.className = 'dpc-lab-popup';
  popup.popover = 'auto';
  popup.setAttribute('role', 'dialog');
  popup.setAttribute('aria-label', t('Pick a compute host'));
  const body = popup.appendChild(document.createElement('div'));
  const dispose = hostPicker(body, client, t);
  anchor.setAttribute('aria-expanded', 'true');
  body.addEventListener('dpc-chosen', () => {
    popup.hidePopover();
    onChosen();
  });
  popup.addEventListener('toggle', event => {
    if ((event as ToggleEvent).newState === 'closed') {
      anchor.setAttribute('aria-expanded', 'false');
      dispose();
      popup.remove();
      if (document.activeElement === document.body) {
        anchor.focus();
      }
    }
  });
  document.body.append(popup);
  popup.showPopover();
  place(popup, anchor);
  popup.querySelector<HTMLElement>('input[type="search"]')?.focus();
  return popup;
}

function place(popup: HTMLElement, anchor: HTMLElement): void {
  const { left, bottom, width } = anchor.getBoundingClientRect();
  const room = window.innerWidth - popup.offsetWidth - 8;
  // A narrow toolbar keeps the button in its menu: then in the middle, like a dialog.
  const top = width ? bottom + 2 : 80;
  popup.style.left = `${Math.max(0, width ? Math.min(left, room) : room / 2)}px`;
  popup.style.top = `${top}px`;
  popup.style.maxHeight = `${window.innerHeight - top - 16}px`;
}
