import type { DocumentRegistry } from '@jupyterlab/docregistry';
import type { INotebookModel, NotebookPanel } from '@jupyterlab/notebook';
import { JSONExt, type ReadonlyJSONObject, type ReadonlyJSONValue } from '@lumino/coreutils';
import type { IDisposable } from '@lumino/disposable';
import { type ISignal, Signal } from '@lumino/signaling';

import { type IChoice, isLinked, METADATA_KEY, readChoice, restoring, toChoice } from './choice';
import type { IChosen, IClient, IState, Translate } from './contract';
import { KernelLink } from './link';
import type { Phase } from './wording';

/** One notebook: its talk with the kernel, and its choice of a host, kept in the file. */
export class NotebookModel implements IDisposable {
  constructor(
    private _context: DocumentRegistry.IContext<INotebookModel>,
    private _t: Translate
  ) {
    this.link = new KernelLink(_context.sessionContext, _t);
    this.link.changed.connect(this._onLink, this);
    this.link.client.onState((state, sections) => {
      if (sections.includes('chosen') || sections.includes('hosts')) {
        void this._onChosen(state);
      }
      this._changed.emit();
    });
    _context.disposed.connect(this.dispose, this);
  }

  readonly link: KernelLink;

  get client(): IClient {
    return this.link.client;
  }

  get state(): IState {
    return this.client.state;
  }

  get phase(): Phase {
    return this.link.phase;
  }

  /** What did not work out quietly, as one sentence; else "". */
  get note(): string {
    return this.link.problem || this._note;
  }

  /** Anything that a face draws. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get isDisposed(): boolean {
    return this.link.isDisposed;
  }

  dispose(): void {
    this.link.dispose();
    Signal.clearData(this);
  }

  /** Keep the choice that the user has just made, even where the kernel had it already. */
  keep(): void {
    if (this._restored === 'yes' && this.state.chosen) {
      this._note = '';
      this._awaited = null;
      this._store(this.state.chosen);
      this._changed.emit();
    }
  }

  private _onLink(): void {
    if (this.phase !== 'live') {
      this._restored = 'not yet';
      this._note = '';
      this._awaited = null;
    } else {
      void this._onChosen(this.state);
    }
    this._changed.emit();
  }

  private async _onChosen({ chosen, hosts }: IState): Promise<void> {
    if (this.phase !== 'live' || !chosen || !hosts) {
      return;
    }
    if (this._restored === 'yes') {
      if (!JSONExt.deepEqual(this._seen, { ...chosen })) {
        this._note = '';
        this._awaited = null;
        this._store(chosen);
      }
      this._seen = { ...chosen };
      if (this._awaited && isLinked(this._awaited.host, hosts)) {
        await this._choose(this._awaited);
        this._changed.emit();
      }
    } else if (this._restored === 'not yet') {
      this._restored = 'at it';
      this._seen = { ...chosen };
      await this._context.ready;
      await this._restore(chosen, hosts);
    }
  }

  private async _restore(chosen: IChosen, hosts: NonNullable<IState['hosts']>): Promise<void> {
    const saved = readChoice(this._context.model.getMetadata(METADATA_KEY));
    const plan = restoring(saved, chosen, hosts);
    if (plan.do === 'choose') {
      if (!(await this._choose(plan.choice)) && !isLinked(plan.choice.host, this.state.hosts)) {
        this._awaited = plan.choice;
      }
    } else if (plan.do === 'tell') {
      this._note = this._t('This notebook was saved with %1, which is not known here.', plan.name);
    } else {
      this._store(chosen);
    }
    if (this.phase === 'live') {
      this._restored = 'yes';
    }
    this._changed.emit();
  }

  /** Make a saved choice again; the note says why it could not be made. */
  private async _choose({ host, name, model }: IChoice): Promise<boolean> {
    this._awaited = null;
    try {
      this._seen = { ...(await this.client.call<IChosen>('choose', { host, model })) };
      this._note = '';
      return true;
    } catch (error) {
      this._note = this._t('This notebook was saved with %1: %2', name, (error as Error).message);
      return false;
    }
  }

  private _store(chosen: IChosen): void {
    const model = this._context.model;
    const choice = toChoice(chosen);
    const before: unknown = model.getMetadata(METADATA_KEY);
    if (choice && !JSONExt.deepEqual((before ?? null) as ReadonlyJSONValue, { ...choice })) {
      model.setMetadata(METADATA_KEY, choice);
    } else if (!choice && before !== undefined) {
      model.deleteMetadata(METADATA_KEY);
    }
  }

  /** A saved choice whose host was away: made once it is linked, by whomever. */
  private _awaited: IChoice | null = null;
  private _changed = new Signal<this, void>(this);
  private _note = '';
  private _restored: 'not yet' | 'at it' | 'yes' = 'not yet';
  private _seen: ReadonlyJSONObject = {};
}

/** The models of the open notebooks; two views of one document share theirs. */
export class Notebooks {
  constructor(private _t: Translate) {}

  of(panel: NotebookPanel): NotebookModel {
    let model = this._models.get(panel.context);
    if (!model) {
      model = new NotebookModel(panel.context, this._t);
      this._models.set(panel.context, model);
      this._opened.emit(model);
    }
    return model;
  }

  get opened(): ISignal<this, NotebookModel> {
    return this._opened;
  }

  private _models = new WeakMap<object, NotebookModel>();
  private _opened = new Signal<this, NotebookModel>(this);
}
