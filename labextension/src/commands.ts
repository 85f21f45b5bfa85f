import { InputDialog, Notification, showErrorMessage } from '@jupyterlab/apputils';
import { type INotebookTracker, NotebookActions } from '@jupyterlab/notebook';
import type { CommandRegistry } from '@lumino/commands';

import type { Translate } from './contract';
import { dpcIcon } from './icon';
import type { NotebookModel } from './model';

export namespace CommandIDs {
  export const chooseHost = 'dpc:choose-host';
  export const openPanel = 'dpc:open-panel';
  export const load = 'dpc:load';
  export const start = 'dpc:start';
  export const connect = 'dpc:connect';
  export const share = 'dpc:share';
  export const pause = 'dpc:pause';
  export const copyAddress = 'dpc:copy-address';
  export const insertQuestion = 'dpc:insert-question';
  export const newNotebook = 'dpc:new-notebook';
}

interface IOptions {
  commands: CommandRegistry;
  tracker: INotebookTracker;
  current: () => NotebookModel | null;
  chooseHost: () => void;
  openPanel: () => void;
  /** The name of a kernel that can load dpc_jupyter. */
  pythonKernel: () => string | undefined;
  t: Translate;
}

/** Load dpc_jupyter into a notebook's kernel, and say what hinders it. */
export async function load(model: NotebookModel): Promise<void> {
  await model.link.load();
  if (model.phase === 'absent' && model.note) {
    Notification.error(model.note);
  }
}

/** The commands under "DPC"; each is about the current notebook's kernel. */
export function addCommands({ commands, tracker, current, chooseHost, openPanel, pythonKernel, t }: IOptions): void {
  const live = () => current()?.phase === 'live';
  const node = () => (live() ? current()?.state.node : undefined);
  const call = async <T>(method: string, params: object = {}): Promise<T | undefined> => {
    try {
      return await current()?.client.call<T>(method, params);
    } catch (error) {
      await showErrorMessage(t('DPC'), (error as Error).message);
      return undefined;
    }
  };

  /** The palette puts what has the searched word in its label before what has it in its category alone. */
  const label = (text: string) => (args: { isPalette?: unknown }) => (args.isPalette ? t('DPC: %1', text) : text);

  commands.addCommand(CommandIDs.chooseHost, {
    label: label(t('Choose Compute Host…')),
    caption: t('Choose whose machine answers this notebook'),
    isEnabled: () => live() || current()?.phase === 'absent',
    execute: chooseHost
  });
  commands.addCommand(CommandIDs.openPanel, {
    label: label(t('Open Node Panel')),
    icon: args => (args.isPalette ? undefined : dpcIcon),
    execute: openPanel
  });
  commands.addCommand(CommandIDs.load, {
    label: label(t('Load DPC into the Kernel')),
    caption: t('Run %load_ext dpc_jupyter in the kernel of this notebook'),
    isEnabled: () => current()?.phase === 'absent',
    execute: async () => {
      const model = current();
      await (model && load(model));
    }
  });
  commands.addCommand(CommandIDs.start, {
    label: label(t('Start Node')),
    isEnabled: () => node()?.running === false,
    execute: () => call('start')
  });
  commands.addCommand(CommandIDs.connect, {
    label: label(t('Connect to a Peer…')),
    isEnabled: live,
    execute: async () => {
      const { value } = await InputDialog.getText({
        title: t('Connect to a peer'),
        label: t('The dpc:// address or the invitation that its owner sent you, or the name of a peer you met before'),
        placeholder: t('Address, name or invitation'),
        okLabel: t('Connect')
      });
      const peer = value?.trim() && (await call<{ name: string }>('connect', { address: value.trim(), name: null }));
      if (peer) {
        Notification.success(t('Connected to %1.', peer.name), { autoClose: 4000 });
      }
    }
  });
  commands.addCommand(CommandIDs.share, {
    label: label(t('Share My Models')),
    caption: t('Let the people in your access file use the models of this machine'),
    isToggleable: true,
    isToggled: () => node()?.sharing ?? false,
    isEnabled: live,
    execute: () => call('share', { on: !node()?.sharing })
  });
  commands.addCommand(CommandIDs.pause, {
    label: label(t('Pause Sharing')),
    caption: t('Take no new requests of others for now'),
    isToggleable: true,
    isToggled: () => Boolean(node()?.sharing && node()?.paused),
    isEnabled: () => node()?.sharing ?? false,
    execute: () => call('pause', { on: !node()?.paused })
  });
  commands.addCommand(CommandIDs.copyAddress, {
    label: label(t('Copy My Address')),
    caption: t('The dpc:// address by which others connect to this machine'),
    isEnabled: () => Boolean(node()?.address),
    execute: () => navigator.clipboard.writeText(node()?.address ?? '')
  });
  commands.addCommand(CommandIDs.insertQuestion, {
    label: label(t('Insert Question Cell (%1)', '%%dpc_ask')),
    isEnabled: () => tracker.currentWidget !== null && current()?.phase !== 'none',
    execute: async () => {
      const notebook = tracker.currentWidget!.content;
      NotebookActions.insertBelow(notebook);
      const cell = notebook.activeCell!;
      cell.model.sharedModel.setSource('%%dpc_ask\n');
      await cell.ready;
      notebook.mode = 'edit';
      cell.editor?.setCursorPosition({ line: 1, column: 0 });
    }
  });
  commands.addCommand(CommandIDs.newNotebook, {
    label: args => (args.isPalette ? t('DPC: New Notebook') : t('DPC Notebook')),
    caption: t('A Python notebook that asks models on the machines of people you trust'),
    icon: args => (args.isPalette ? undefined : dpcIcon),
    isEnabled: () => pythonKernel() !== undefined,
    execute: async ({ cwd }) => {
      const panel = await commands.execute('notebook:create-new', {
        cwd: cwd ?? '',
        kernelName: pythonKernel(),
        activate: true
      });
      await panel.context.ready;
      await panel.revealed;
      panel.content.activeCell?.model.sharedModel.setSource('%load_ext dpc_jupyter');
      await panel.sessionContext.ready;
      await commands.execute('notebook:run-cell');
      await commands.execute(CommandIDs.insertQuestion);
      return panel;
    }
  });
}
