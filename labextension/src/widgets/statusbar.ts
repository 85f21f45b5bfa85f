import { type ISignal, Signal } from '@lumino/signaling';
import { Widget } from '@lumino/widgets';

import type { Translate } from '../contract';
import type { NotebookModel } from '../model';
import { h, mark, update } from '../views';
import { accessTrouble, chosenHost, stateName, statusText } from '../wording';

/** "● anna · 64 tokens/s · 2 peers   Sharing off" of the current notebook; a click opens the sidebar. */
export class StatusItem extends Widget {
  constructor(
    private _open: () => void,
    private _t: Translate
  ) {
    super();
    this.addClass('dpc');
    this.addClass('dpc-lab-status');
  }

  /** Show how many peers are linked. */
  showPeers = true;

  set model(model: NotebookModel | null) {
    this._model?.changed.disconnect(this.draw, this);
    this._model = model;
    model?.changed.connect(this.draw, this);
    this.draw();
  }

  isActive = (): boolean => this._model?.phase === 'live';

  get activeStateChanged(): ISignal<this, void> {
    return this._activeStateChanged;
  }

  /** Let the status bar ask again whether the item is to be seen. */
  refresh(): void {
    this._activeStateChanged.emit();
  }

  draw(): void {
    if (this.isActive() !== this._wasActive) {
      this._wasActive = this.isActive();
      this.refresh();
    }
    if (!this._model || !this._wasActive) {
      return;
    }
    const { phase, state } = this._model;
    const { main, sharing } = statusText(state, this.showPeers, this._t);
    const title = [accessTrouble(state, this._t), this._t('Open the node panel')].filter(Boolean).join('\n');
    update(this.node, [
      h(
        'button',
        { type: 'button', title, onclick: this._open },
        mark(chosenHost(state)?.state ?? 'unreachable', stateName(phase, state, this._t)),
        h('span', null, main),
        h('span', null, sharing)
      )
    ]);
  }

  private _activeStateChanged = new Signal<this, void>(this);
  private _model: NotebookModel | null = null;
  private _wasActive = false;
}
