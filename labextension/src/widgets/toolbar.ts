import { Widget } from '@lumino/widgets';

import type { Translate } from '../contract';
import type { NotebookModel } from '../model';
import { h, mark, update } from '../views';
import { accessTrouble, choiceLabel, choiceTooltip, chosenHost, stateName } from '../wording';
import { openPicker } from './popup';

/** "● anna · llama3-70b ▾" in a notebook's toolbar: whom it asks, and the way to choose. */
export class HostButton extends Widget {
  constructor(
    private _model: NotebookModel,
    private _load: (model: NotebookModel) => Promise<void>,
    private _t: Translate
  ) {
    super();
    this.addClass('dpc');
    this.addClass('dpc-lab-toolbar');
    this._draw();
    _model.changed.connect(this._draw, this);
  }

  /** Whether a kernel without dpc_jupyter is offered to load it. */
  set offers(offers: boolean) {
    this._offers = offers;
    this._draw();
  }

  /** Open the host picker; a kernel without dpc_jupyter loads it first. */
  async open(): Promise<void> {
    this._isWanted = true;
    this._openIfLive();
    if (this._model.phase === 'absent') {
      await this._load(this._model);
      this._isWanted &&= this._model.phase !== 'absent';
    }
  }

  dispose(): void {
    this._close();
    super.dispose();
  }

  protected onBeforeHide(): void {
    this._close();
  }

  private _openIfLive(): void {
    if (this._isWanted && this._model.phase === 'live') {
      this._isWanted = false;
      this._close();
      const anchor = this.node.querySelector('button')!;
      this._popup = openPicker(anchor, this._model.client, () => this._model.keep(), this._t);
    }
  }

  private _close(): void {
    if (this._popup?.isConnected) {
      this._popup.hidePopover();
    }
  }

  private _draw(): void {
    const { phase, state } = this._model;
    const t = this._t;
    // Notebook 7 has no status bar.
    const note = [this._model.note, phase === 'live' ? accessTrouble(state, t) : ''].filter(Boolean).join('\n');
    this.setHidden(
      phase === 'none' || (phase === 'connecting' && !state.chosen) || (phase === 'absent' && !this._offers)
    );
    const label = choiceLabel(phase, state, t);
    const shape = (phase === 'live' && chosenHost(state)?.state) || 'unreachable';
    const tooltip = choiceTooltip(phase, state, note, t);
    update(this.node, [
      h(
        'button',
        {
          type: 'button',
          class: 'dpc-lab-host',
          'aria-haspopup': phase === 'absent' ? null : 'dialog',
          title: tooltip,
          onclick: () => void this.open()
        },
        mark(shape, stateName(phase, state, t)),
        h('span', { class: 'dpc-lab-label' }, label),
        note ? h('span', { role: 'img', 'aria-label': note }, '⚠') : null,
        phase === 'live' ? h('span', { 'aria-hidden': 'true' }, '▾') : null
      )
    ]);
    this._openIfLive();
  }

  private _isWanted = false;
  private _offers = true;
  private _popup: HTMLElement | null = null;
}
