import { Widget } from '@lumino/widgets';

import type { Translate } from '../contract';
import { dpcIcon } from '../icon';
import type { NotebookModel } from '../model';
import { h, nodePanel, update } from '../views';

/** The node panel of the current notebook's kernel, or what to do to get one. */
export class Sidebar extends Widget {
  constructor(
    private _load: () => void,
    private _t: Translate
  ) {
    super();
    this.id = 'dpc-jupyter:sidebar';
    this.addClass('dpc');
    this.addClass('dpc-lab-sidebar');
    this.title.icon = dpcIcon;
    this.title.caption = _t('DPC: compute hosts');
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', this.title.caption);
  }

  /** The notebook to show; null: none is open. */
  set model(model: NotebookModel | null) {
    if (model !== this._model) {
      this._model?.changed.disconnect(this._draw, this);
      this._model = model;
      model?.changed.connect(this._draw, this);
      this._unmount();
      this._draw();
    }
  }

  dispose(): void {
    this._unmount();
    super.dispose();
  }

  protected onAfterShow(): void {
    this._draw();
  }

  protected onAfterHide(): void {
    this._unmount();
  }

  private _draw(): void {
    if (!this.isVisible) {
      return;
    }
    const model = this._model;
    if (model && (model.phase === 'live' || (this._dispose && model.phase === 'connecting'))) {
      if (!this._dispose) {
        this.node.replaceChildren();
        this._dispose = nodePanel(this.node.appendChild(document.createElement('div')), model.client, this._t);
      }
      return;
    }
    this._unmount();
    update(this.node, [h('div', { class: 'dpc-lab-empty' }, ...this._instead(model))]);
  }

  private _instead(model: NotebookModel | null): HTMLElement[] {
    const t = this._t;
    switch (model?.phase) {
      case 'absent':
        return [
          h('p', null, t('The kernel of this notebook has not loaded dpc_jupyter.')),
          h('button', { type: 'button', class: 'jp-mod-styled jp-mod-accept', onclick: this._load }, t('Load it')),
          h('p', { role: 'status' }, model.note)
        ];
      case 'loading':
        return [h('p', { role: 'status' }, t('Loading dpc_jupyter; a running cell ends first…'))];
      case 'connecting':
        return [h('p', { role: 'status' }, t('Waiting for the kernel…'))];
      default:
        return [
          h('p', null, t('Open a Python notebook to see its node: whose machines it can ask, and who asks this one.'))
        ];
    }
  }

  private _unmount(): void {
    this._dispose?.();
    if (this._dispose) {
      this.node.replaceChildren();
    }
    this._dispose = null;
  }

  private _dispose: (() => void) | null = null;
  private _model: NotebookModel | null = null;
}

